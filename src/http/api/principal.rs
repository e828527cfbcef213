//! Who uses the API, and what they may do.

/// What a route's requests need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// To see states and counts.
    View,
    /// To wake apps and to put them to sleep.
    Operate,
}

/// A set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights(&'static [Right]);

impl Rights {
    pub(super) const ALL: Self = Self(&[Right::View, Right::Operate]);
}

/// Whose apps and records a principal sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tenant {
    /// The box that this process serves.
    Own,
}

/// Who sent a request. Handlers answer with what belongs to the tenant, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Principal {
    pub(super) tenant: Tenant,
    rights: Rights,
}

impl Principal {
    /// Whoever has the configured token; without a token, whoever reaches the listener.
    pub(super) const OPERATOR: Self = Self { tenant: Tenant::Own, rights: Rights::ALL };

    pub(super) fn may(&self, right: Right) -> bool {
        self.rights.0.contains(&right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_may_do_what_it_has_the_right_to() {
        let visitor = Principal { rights: Rights(&[Right::View]), ..Principal::OPERATOR };
        assert!(visitor.may(Right::View) && !visitor.may(Right::Operate));
        assert!(Principal::OPERATOR.may(Right::View) && Principal::OPERATOR.may(Right::Operate));
    }
}
