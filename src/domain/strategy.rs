//! What a request for a sleeping app gets, by the app's choice and the kind of request.

/// What a granted request for an app that is not awake gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The grant, at once; whatever the proxy finds in place of the app answers.
    Pass,
    /// A page that opens the app as soon as it is ready.
    Page,
    /// The grant, as soon as the app is ready.
    Hold,
}

/// A fixed strategy, or the choice of one for each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StrategyChoice {
    #[default]
    Auto,
    Always(Strategy),
}

impl StrategyChoice {
    /// Their names in configuration files.
    pub const WORDS: [(&str, Self); 4] = [
        ("auto", Self::Auto),
        ("pass", Self::Always(Strategy::Pass)),
        ("page", Self::Always(Strategy::Page)),
        ("hold", Self::Always(Strategy::Hold)),
    ];

    /// Returns the choice of that name.
    #[must_use]
    pub fn from_name(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice)
    }

    /// Returns the strategy for one request. Only a browser that navigates gets a page,
    /// whatever was chosen.
    #[must_use]
    pub fn resolve(self, is_navigation: bool, beside_upstream: bool) -> Strategy {
        match self {
            Self::Auto if beside_upstream => Strategy::Pass,
            Self::Auto | Self::Always(Strategy::Page) if is_navigation => Strategy::Page,
            Self::Auto | Self::Always(Strategy::Page) => Strategy::Hold,
            Self::Always(strategy) => strategy,
        }
    }
}

/// Which streams (`EventSource`, WebSocket) wake an app that has had no other request
/// since it fell asleep: scripts reopen them again and again, even in background tabs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamWakes {
    All,
    /// All but those of a page in a browser.
    #[default]
    Programs,
    None,
}

impl StreamWakes {
    /// Their names in configuration files.
    pub const WORDS: [(&str, Self); 3] =
        [("all", Self::All), ("programs", Self::Programs), ("none", Self::None)];

    #[must_use]
    pub fn covers(self, is_of_browser: bool) -> bool {
        match self {
            Self::All => true,
            Self::Programs => !is_of_browser,
            Self::None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_browser_that_navigates_gets_a_page() {
        use Strategy::{Hold, Page, Pass};
        let always = StrategyChoice::Always;
        for (choice, navigation, upstream, expected) in [
            (StrategyChoice::Auto, true, false, Page),
            (StrategyChoice::Auto, false, false, Hold),
            (StrategyChoice::Auto, true, true, Pass),
            (always(Page), true, true, Page),
            (always(Page), false, false, Hold),
            (always(Hold), true, false, Hold),
            (always(Pass), true, false, Pass),
        ] {
            assert_eq!(choice.resolve(navigation, upstream), expected, "{choice:?}");
        }
    }
}
