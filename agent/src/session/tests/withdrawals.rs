use consilium_common::audit::withdrawal::{Remedy, ranges_of};
use consilium_common::ids::Version;
use consilium_common::wire::messages::{Message, Withdrawal, WithdrawalKept};

use super::bench::*;
use crate::session::{Action, Setup};

fn withdrawal(id: u8) -> Withdrawal {
    let (study, remedy) = (name("mnist"), Remedy::Retrain);
    Withdrawal { id: digest(id), study, versions: ranges_of([Version(3)]), remedy }
}

/// The withdrawals that are said.
fn said(actions: &[Action]) -> Vec<Withdrawal> {
    let of = |action: &Action| match action {
        Action::Send { message } => match &**message {
            Message::Withdrawal(withdrawal) => Some(withdrawal.clone()),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

#[test]
fn a_withdrawal_is_said_at_each_connection_until_the_coordinator_has_it() {
    let mut bench = Bench::new(Setup { withdrawals: vec![withdrawal(7)], ..setup() });
    let _connect = bench.take();
    // Before there is a connection, and while there is one.
    bench.session.handle_withdrawal(withdrawal(8), bench.now);
    assert_eq!(said(&bench.take()), []);
    assert_eq!(said(&bench.connect()), [withdrawal(7), withdrawal(8)]);
    bench.session.handle_withdrawal(withdrawal(9), bench.now);
    assert_eq!(said(&bench.take()), [withdrawal(9)]);
    for _twice in 0..2 {
        bench.say(WithdrawalKept { id: digest(8) });
    }
    bench.say(WithdrawalKept { id: digest(1) });
    assert_eq!(bench.take(), [Action::Reported { withdrawal: digest(8) }]);
    assert_eq!(bench.session.status(bench.now).withdrawals, 2);
    bench.lose_connection();
    assert_eq!(said(&bench.reconnect()), [withdrawal(7), withdrawal(9)]);
}
