//! One digest, whatever the order, the chunks and the number of threads.

use proptest::prelude::*;

use super::*;

/// Cuts 0..len at the given places.
fn ranges(len: usize, cuts: &[usize]) -> Vec<(usize, usize)> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (len + 1)).collect();
    at.extend([0, len]);
    at.sort_unstable();
    at.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

fn bytes(units: &[i32]) -> Vec<u8> {
    units.iter().flat_map(|unit| unit.to_le_bytes()).collect()
}

fn reference(updates: &[(u64, Vec<i32>)], len: usize) -> Vec<i64> {
    let at = |i: usize| {
        let terms = updates
            .iter()
            .map(|(n, units)| i128::from(*n) * i128::from(units[i]));
        i64::try_from(terms.sum::<i128>()).unwrap()
    };
    (0..len).map(at).collect()
}

fn updates(len: usize) -> impl Strategy<Value = Vec<(u64, Vec<i32>)>> {
    let unit = -GRID_MAX..=GRID_MAX;
    proptest::collection::vec(
        (1_u64..1 << 26, proptest::collection::vec(unit, len)),
        1..12,
    )
}

proptest! {
    #[test]
    fn any_order_any_chunks_any_threads_one_digest(
        updates in updates(37),
        order in any::<u64>(),
        cuts in proptest::collection::vec(any::<usize>(), 0..6),
        threads in 1_usize..5,
    ) {
        let mut plain = Sum::new(37);
        for (weight, units) in &updates {
            let share = plain.admit(*weight).unwrap();
            plain.add(share, 0, units).unwrap();
        }
        prop_assert_eq!(plain.as_slice(), reference(&updates, 37));

        let mut shuffled: Vec<_> = updates.iter().collect();
        let turn = usize::try_from(order % updates.len() as u64).unwrap();
        shuffled.rotate_left(turn);
        if order % 2 == 0 {
            shuffled.reverse();
        }
        let per_thread = shuffled.len().div_ceil(threads);
        let parts: Vec<Sum> = std::thread::scope(|scope| {
            let work = |share: &[&(u64, Vec<i32>)]| {
                let mut sum = Sum::new(37);
                for (weight, units) in share {
                    let share = sum.admit(*weight).unwrap();
                    for (from, to) in ranges(37, &cuts).into_iter().rev() {
                        sum.add_bytes(share, from, &bytes(&units[from..to])).unwrap();
                    }
                }
                sum
            };
            let handles: Vec<_> = shuffled.chunks(per_thread).map(|share| scope.spawn(move || work(share))).collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        });
        let mut merged = Sum::new(37);
        for part in &parts {
            merged.merge(part).unwrap();
        }
        prop_assert_eq!(merged.digest(), plain.digest());
        prop_assert_eq!(merged.weight(), plain.weight());
    }
}

#[test]
fn the_largest_sum_that_is_admitted_fits() {
    let mut sum = Sum::new(2);
    let share = sum.admit(WEIGHT_SUM_MAX - 1).unwrap();
    sum.add(share, 0, &[i32::MIN, i32::MAX]).unwrap();
    let most = i64::try_from(WEIGHT_SUM_MAX - 1).unwrap();
    assert_eq!(
        sum.as_slice(),
        [most * i64::from(i32::MIN), most * i64::from(i32::MAX)]
    );
    let refused = SumError::Weight {
        sum: WEIGHT_SUM_MAX - 1,
        weight: 1,
    };
    assert_eq!(sum.admit(1), Err(refused));
    assert_eq!(
        Sum::new(1).admit(u64::MAX).unwrap_err(),
        SumError::Weight {
            sum: 0,
            weight: u64::MAX
        }
    );
}

#[test]
fn a_chunk_that_does_not_fit_adds_nothing() {
    let mut sum = Sum::new(3);
    let share = sum.admit(1).unwrap();
    let outside = |offset, len| {
        Err(SumError::Range {
            offset,
            len,
            coordinates: 3,
        })
    };
    assert_eq!(sum.add(share, 2, &[1, 1]), outside(2, 2));
    assert_eq!(sum.add(share, usize::MAX, &[1]), outside(usize::MAX, 1));
    assert_eq!(sum.add_bytes(share, 0, &[0; 7]), Err(SumError::Ragged(7)));
    assert_eq!(
        sum.merge(&Sum::new(2)),
        Err(SumError::Length { have: 2, need: 3 })
    );
    assert_eq!(sum.as_slice(), [0, 0, 0]);
}

#[test]
fn the_digest_is_that_of_the_little_endian_bytes() {
    let mut sum = Sum::new(DIGEST_COORDINATES + 3);
    let units: Vec<i32> = (0..i32::try_from(sum.as_slice().len()).unwrap())
        .map(|i| i - 99)
        .collect();
    let share = sum.admit(7).unwrap();
    sum.add(share, 0, &units).unwrap();
    let bytes: Vec<u8> = units
        .iter()
        .flat_map(|unit| (7 * i64::from(*unit)).to_le_bytes())
        .collect();
    assert_eq!(sum.digest(), Digest::of(&bytes));
}
