//! Sets of numbers as text: `1-5000 5003`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A set of numbers that are not negative, kept as ranges that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(
    /// The last number of each range by its first.
    BTreeMap<i64, i64>,
);

/// A text that is not a set of ranges.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid range {0:?}: expected a number or two with a hyphen between, such as \"1-5000\"")]
pub struct InvalidRange(String);

impl Ranges {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many numbers there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.iter().map(|(first, last)| last.abs_diff(first).saturating_add(1)).sum()
    }

    /// Returns the ranges, first and last number of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, i64)> {
        self.0.iter().map(|(first, last)| (*first, *last))
    }

    #[must_use]
    pub fn contains(&self, number: i64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    pub fn insert(&mut self, number: i64) {
        self.insert_range(number, number);
    }

    /// Adds all numbers from `first` to `last`; none if `last` is less.
    pub fn insert_range(&mut self, first: i64, last: i64) {
        if last < first {
            return;
        }
        let (mut first, mut last) = (first, last);
        // Only the range before it and those that begin within it can touch it.
        if let Some((&before, &end)) = self.0.range(..first).next_back()
            && end >= first.saturating_sub(1)
        {
            self.0.remove(&before);
            first = before;
            last = last.max(end);
        }
        while let Some((&next, &end)) = self.0.range(first..=last.saturating_add(1)).next() {
            self.0.remove(&next);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    /// Removes all numbers of another set.
    pub fn remove_all(&mut self, other: &Self) {
        for (first, last) in other.iter() {
            self.remove_range(first, last);
        }
    }

    fn remove_range(&mut self, first: i64, last: i64) {
        if let Some((&before, &end)) = self.0.range(..first).next_back()
            && end >= first
        {
            self.0.insert(before, first - 1);
            if end > last {
                self.0.insert(last + 1, end);
                return;
            }
        }
        while let Some((&next, &end)) = self.0.range(first..=last).next() {
            self.0.remove(&next);
            if end > last {
                self.0.insert(last + 1, end);
                return;
            }
        }
    }
}

impl FromIterator<i64> for Ranges {
    fn from_iter<T: IntoIterator<Item = i64>>(numbers: T) -> Self {
        let mut ranges = Self::default();
        ranges.extend(numbers);
        ranges
    }
}

impl Extend<i64> for Ranges {
    fn extend<T: IntoIterator<Item = i64>>(&mut self, numbers: T) {
        for number in numbers {
            self.insert(number);
        }
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (first, last) in self.iter() {
            f.write_str(separator)?;
            separator = " ";
            if first == last {
                write!(f, "{first}")?;
            } else {
                write!(f, "{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Ranges {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let number = |digits: &str| {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<i64>().ok()).flatten()
        };
        let mut ranges = Self::default();
        for range in text.split_ascii_whitespace() {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let parsed = number(first).zip(number(last)).filter(|(first, last)| first <= last);
            let (first, last) =
                parsed.ok_or_else(|| InvalidRange(range.chars().take(80).collect()))?;
            ranges.insert_range(first, last);
        }
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn members(ranges: &Ranges) -> BTreeSet<i64> {
        ranges.iter().flat_map(|(first, last)| first..=last).collect()
    }

    #[test]
    fn neighbours_become_one_range() {
        let ranges: Ranges = [5, 1, 2, 3, 9, 4].into_iter().collect();
        assert_eq!(ranges.to_string(), "1-5 9");
        assert_eq!(ranges.count(), 6);
        assert_eq!("1-3 4-5 9".parse::<Ranges>(), Ok(ranges));
        assert_eq!("".parse::<Ranges>(), Ok(Ranges::default()));
    }

    #[test]
    fn what_is_not_a_range_is_refused() {
        for text in ["a", "1-", "-1", "5-1", "1--2", "+1", "1,2", "99999999999999999999"] {
            assert!(text.parse::<Ranges>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        let mut ranges = Ranges::default();
        ranges.insert(i64::MAX);
        ranges.insert(i64::MAX - 1);
        ranges.insert_range(0, i64::MAX);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(0, i64::MAX)]);
        let all = ranges.clone();
        ranges.remove_all(&all);
        assert!(ranges.is_empty());
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(
            added in proptest::collection::vec((0i64..60, 0i64..8), 0..20),
            removed in proptest::collection::vec((0i64..60, 0i64..8), 0..20),
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (first, length) in added {
                ranges.insert_range(first, first + length);
                set.extend(first..=first + length);
            }
            prop_assert_eq!(members(&ranges), set.clone());
            prop_assert_eq!(ranges.to_string().parse::<Ranges>(), Ok(ranges.clone()));
            let mut other = Ranges::default();
            for (first, length) in removed {
                other.insert_range(first, first + length);
                set.retain(|number| !(first..=first + length).contains(number));
            }
            ranges.remove_all(&other);
            for number in 0..70 {
                prop_assert_eq!(ranges.contains(number), set.contains(&number));
            }
            prop_assert_eq!(ranges.count(), set.len() as u64);
            let ends: Vec<_> = ranges.iter().collect();
            prop_assert!(ends.windows(2).all(|two| two[0].1 + 1 < two[1].0));
        }
    }
}
