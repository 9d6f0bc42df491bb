//! Records that are users': dealt to parts with all that is theirs, and held out by what each did last.
//! Pure.

use std::collections::BTreeMap;

use consilium_common::worker::Part;

use super::split::deal;

/// Whose a record is, and when it was made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Of {
    /// Users as the file names them, counted from 0 by their first records.
    pub(crate) user: u32,
    /// Grows with time.
    pub(crate) at: f64,
}

/// Those of `numbers` that are of the part's users. `of` is of all records.
pub(crate) fn deal_to(part: &Part, of: &[Of], numbers: Vec<u32>) -> Vec<u32> {
    let users = of.iter().map(|of| of.user as usize + 1).max().unwrap_or(0);
    let mine = deal(part, "users", &vec![0; users], 1);
    let is_mine = |number: &u32| {
        let user = of.get(*number as usize).map(|of| of.user);
        user.is_some_and(|user| mine.binary_search(&user).is_ok())
    };
    numbers.into_iter().filter(is_mine).collect()
}

/// Of each user's records the last goes into the second list, unless it is the only one. Of equal
/// times the later record of the file is the last. Both ascending, as `numbers` must be.
pub(crate) fn last(of: &[Of], numbers: &[u32]) -> (Vec<u32>, Vec<u32>) {
    /// How many records, when the last was made, and which it is.
    type Seen = (u32, f64, u32);
    let mut users: BTreeMap<u32, Seen> = BTreeMap::new();
    for &number in numbers {
        let Some(Of { user, at }) = of.get(number as usize) else {
            continue;
        };
        let (count, latest, last) = users.entry(*user).or_insert((0, f64::NEG_INFINITY, number));
        *count += 1;
        if *at >= *latest {
            (*latest, *last) = (*at, number);
        }
    }
    let is_last = |number: &u32| {
        let user = of.get(*number as usize).and_then(|of| users.get(&of.user));
        user.is_some_and(|(count, _, last)| *count > 1 && last == number)
    };
    let (held, train) = numbers.iter().partition(|number| is_last(number));
    (train, held)
}

/// A point in time as a number that grows with it: a number as it stands, or year, month, day and
/// what follows of hour, minute and second as their digits (`2019-03-01 08:30` is 20190301083000).
pub(crate) fn moment(text: &str, number: Option<f64>) -> Option<f64> {
    if number.is_some() {
        return number;
    }
    let stamp = text.get(..text.len().min("2019-03-01 08:30:00".len()))?;
    let digits = "2019-03-01 08:30:00";
    let fits = |(have, need): (char, char)| match need {
        ' ' => matches!(have, ' ' | 'T'),
        '-' | ':' => have == need,
        _ => have.is_ascii_digit(),
    };
    if !matches!(stamp.len(), 10 | 16 | 19) || !stamp.chars().zip(digits.chars()).all(fits) {
        return None;
    }
    let whole: String = stamp.chars().filter(char::is_ascii_digit).collect();
    format!("{whole:0<14}").parse().ok()
}

#[cfg(test)]
mod tests {
    use consilium_common::worker::Split;

    use super::*;

    fn of(users: &[(u32, f64)]) -> Vec<Of> {
        users.iter().map(|&(user, at)| Of { user, at }).collect()
    }

    #[test]
    fn a_part_gets_users_with_all_that_is_theirs_and_each_user_once() {
        let of = of(&(0..500).map(|i| (i * 7 % 23, 0.0)).collect::<Vec<_>>());
        let parts = (0..4).map(|index| {
            let part = Part { of: 4, index, split: Split::Iid, seed: 5 };
            deal_to(&part, &of, (0..500).collect())
        });
        let parts: Vec<Vec<u32>> = parts.collect();
        let mut all: Vec<u32> = parts.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..500).collect::<Vec<_>>());
        for user in 0..23 {
            let has = |part: &&Vec<u32>| part.iter().any(|n| of[*n as usize].user == user);
            assert_eq!(parts.iter().filter(has).count(), 1, "user {user}");
        }
    }

    #[test]
    fn the_last_of_each_user_is_held_out_and_an_only_one_stays() {
        let of = of(&[(0, 5.0), (1, 9.0), (0, 7.0), (2, 1.0), (0, 7.0), (1, 2.0)]);
        let (train, held) = last(&of, &[0, 1, 2, 3, 4, 5]);
        assert_eq!((train, held), (vec![0, 2, 3, 5], vec![1, 4]));
        // A part without record 4: then record 2 is the last.
        assert_eq!(last(&of, &[0, 2]), (vec![0], vec![2]));
    }

    #[test]
    fn dates_grow_with_time_and_nonsense_is_no_time() {
        let at = |text: &str| moment(text, text.parse().ok());
        let stamps = ["2019-03-01", "2019-03-01 08:30", "2019-03-01T08:30:01", "2101-01-01"];
        let times: Vec<f64> = stamps.iter().map(|text| at(text).unwrap()).collect();
        assert!(times.is_sorted(), "{times:?}");
        assert_eq!(format!("{}", times[1]), "20190301083000");
        assert_eq!(at("881250949"), Some(881_250_949.0));
        for text in ["", "yesterday", "2019-3-1", "01.03.2019", "2019-03-01 8:30", "２０１９-03-01"]
        {
            assert_eq!(at(text), None, "{text:?}");
        }
    }
}
