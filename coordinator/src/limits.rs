//! The coordinator's own bounds: queues, budgets and waits, each with its reason. What both sides of
//! the wire agree on is in `consilium_common::limits`.

use std::time::Duration;

use consilium_common::bucket::Rate;
use consilium_common::time::Millis;

/// Requests that wait for the log's thread. More than every site's receipt of one round; whoever
/// comes later waits at the door.
pub const STORE_QUEUE_MAX: usize = 2048;
/// Records of one group commit: bounds what one failed write takes down with it.
pub const GROUP_COMMIT_MAX: usize = 1024;
/// Signed checkpoints are written this far apart, and at shutdown: each costs two syncs.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// The index's cache: it holds offsets only.
pub const INDEX_CACHE_BYTES: u64 = 4 << 20;
/// How often the training of one study may go back to an earlier version: a person says so each time.
pub const RETRAININGS_MAX: usize = 1_000;
/// A driver looks at the calendar this often, to say in time that an approval ends. Rounds look too.
pub const APPROVAL_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Index entries written together while the log is read at start.
pub const INDEX_BATCH_MAX: usize = 4096;

/// An update up to this size is staged in memory; larger ones go to files.
pub const STAGED_IN_MEMORY_BYTES_MAX: u64 = 64 << 10;
/// All updates staged in memory together; beyond it small ones go to files as well.
pub const STAGE_MEMORY_BYTES_MAX: u64 = 64 << 20;
/// How long a push waits for another push of the same bytes.
pub const STAGE_WAIT_MAX: Duration = Duration::from_secs(30);
/// While it waits, it looks again this often, in case the other ended unheard.
pub const STAGE_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Events that wait for one study's driver: some of every site; a session that finds it full waits,
/// and with it the site's control stream.
pub const DRIVER_QUEUE_MAX: usize = 1024;
/// A transfer tells the driver of its bytes at most this often.
pub const TRANSFER_REPORT_INTERVAL: Millis = Millis(250);

/// A new connection must say who it is within this time.
pub const HELLO_WAIT_MAX: Duration = Duration::from_secs(10);
/// A blob transfer on which no byte moves for this long is given up.
pub const TRANSFER_IDLE_MAX: Duration = Duration::from_secs(30);
/// A site's certificate is renewed at most this often: each is a record of the log.
pub const RENEWAL_INTERVAL_MIN: Millis = Millis::from_secs(60);
/// Sites that enrol or renew at once; each question is a frame each way.
pub const ENROLLING_MAX: usize = 32;
/// How long a closing connection may take to hear why.
pub const GOODBYE_MAX: Duration = Duration::from_millis(500);
/// Operators connected at once.
pub const OPERATORS_MAX: usize = 64;
/// Connections of one operator: some terminals, a dashboard, and a few that a laptop left behind.
pub const OPERATOR_CONNECTIONS_MAX: usize = 8;
/// Requests of one connection: a script may loop; who asks faster waits.
pub const OPERATOR_STREAMS: Rate = Rate::a_second(200, 50);
/// Models that operators were told to bring and have not yet: one for each of a few who work at once.
pub const GIVEN_AWAITED_MAX: usize = 8;
/// Exports of the log that can still be fetched: the newest of a few auditors. Each holds one open file.
pub const EXPORTS_MAX: usize = 8;
/// Requests that one operator's connection may have open.
pub const OPERATOR_REQUESTS_MAX: usize = 8;

/// Open proposals of one researcher.
pub const PROPOSALS_EACH_MAX: usize = 16;
/// Open proposals of all researchers: their texts are kept in memory, 64 MiB if each were as long as can be.
pub const PROPOSALS_MAX: usize = 256;
/// A proposal that nobody submits is over after this: a name that is never taken up must not hold a place
/// for good.
pub const PROPOSAL_LENGTH: Millis = Millis::from_secs(90 * 24 * 3600);
/// v0 of a proposal is worked out and held against what it names up to this many parameters (64 MiB, a
/// second): a study that nobody has signed must not cost more. That of a larger one is when it is submitted.
pub const PROPOSAL_PARAMETERS_MAX: usize = 1 << 24;
/// Records that one researcher makes the log grow by, proposals and refused commands: a few at once, then
/// one a minute.
pub const RESEARCHER_RECORDS: Rate = Rate::new(32, 1, Millis::from_secs(60));
/// Researchers of whom that is counted; more than any CA issues by hand.
pub const RESEARCHERS_COUNTED_MAX: usize = 1024;
/// Models that researchers were shown and may still fetch, beside those that are in memory.
pub const MODELS_SHOWN_MAX: usize = 64;

/// Roll calls of a study kept in memory for status; older ones are in the log.
pub const ROUNDS_SHOWN_MAX: usize = 20;
/// Versions of a study kept in memory for `model list`; older ones are in the log.
pub const VERSIONS_SHOWN_MAX: usize = 4096;

/// Going down waits this long for sessions to end.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// The first strike keeps a site out for this long: an operator sees it, a repaired agent is back soon.
pub const QUARANTINE_FIRST: Millis = Millis::from_secs(10);
/// No strike keeps it out for longer: nobody has to restart a coordinator to let a repaired site in.
pub const QUARANTINE_LONGEST: Millis = Millis::from_secs(3600);
/// This much good behaviour after a term takes one strike back.
pub const QUARANTINE_FORGIVE: Millis = Millis::from_secs(3600);
/// Faults that happen to honest sites too: two are passed over, and one more every five minutes.
pub const FAULTS: Rate = Rate::new(2, 1, Millis::from_secs(300));

/// Connections of one site. A cable that flaps makes two a second for a moment; two agents with one
/// identity, each replacing the other, some four a second without end.
pub const CONNECTIONS: Rate = Rate::a_second(120, 1);
/// Connections of one site that have not said Hello yet: the newest, and those that a dying link left.
pub const GREETINGS_MAX: usize = 4;
/// Control messages of one site. Agents report twice a second and task, and some ten times a round:
/// the fastest rounds ever measured make 700 a second. What a stall held up comes at once.
pub const MESSAGES: Rate = Rate::a_second(10_000, 1_000);
/// Studies that a site becomes ready for, or not: all of them at each reconnect. Each may open a
/// round, so this bounds what a site can make the log grow by.
pub const READINESS_CHANGES: Rate = Rate::a_second(256, 2);
/// Offers for rounds that are not open: after a reconnect one a study. Each is answered from the
/// disk, with up to 400 KiB.
pub const OLD_OFFERS: Rate = Rate::a_second(128, 10);
/// Heads of the log: an agent asks every 10 s at most. Each costs a signature, a hash for every 32 records of
/// the log, and a look at 32 records of it.
pub const HEADS: Rate = Rate::a_second(30, 1);
/// Withdrawals that a site reports: each is a record of the log. A hospital has some a year, and reports
/// those that wait at each reconnect.
pub const WITHDRAWALS: Rate = Rate::a_second(256, 2);
/// Withdrawals of one study.
pub const WITHDRAWALS_MAX: usize = 10_000;
/// What had to be refused, or broke off: it happens around each change of a study or a round.
pub const VAIN: Rate = Rate::a_second(200, 2);
/// Streams of one site: two a round and study, 140 a second in the fastest rounds ever measured. Who
/// opens more waits.
pub const STREAMS: Rate = Rate::a_second(1_000, 200);
/// Fetches of one site that are served at once, and pushes that are taken at once: each holds a file
/// and two chunks. Times `SITES_MAX` this stays far below the descriptors that the unit asks for.
pub const TRANSFERS_PER_SITE_MAX: usize = 4;
/// How often a site may fetch the base of a round: once, and once more for what broke off.
pub const BASE_FETCHES_MAX: u64 = 2;
/// Bases below this may be fetched more often: they cost streams, and those are counted.
pub const SMALL_FETCH_BYTES: u64 = 256 << 10;
/// Anything else that a site fetches: the texts of `STUDIES_MAX` studies at once, then 1 MiB a second.
pub const OTHER_FETCH_BYTES: Rate = Rate::a_second(16 << 20, 1 << 20);
/// A transfer must move this much in each `TRANSFER_IDLE_MAX`: 1 KiB a second, which the slowest
/// line has. It counts as progress of the round in steps of as many bytes as that is a second.
pub const TRANSFER_BYTES_MIN: u64 = 30 << 10;
/// Updates that a site may offer in one round before one is accepted. Training is deterministic; an
/// agent that lost its state on other hardware may have a second, and a third.
pub const OFFERS_PER_ROUND_MAX: u32 = 3;

/// Addresses that something is known of.
pub const ADDRESSES_MAX: usize = 1024;
/// Handshakes of an address from which a quarantined site came: some 1 ms of CPU each, so 2 % of a
/// core. Honest sites behind the same gateway share them.
pub const RATIONED_HANDSHAKES: Rate = Rate::a_second(20, 20);
/// Handshakes of an address that may fail: an expired certificate knocks twice a minute.
pub const FAILED_HANDSHAKES: Rate = Rate::a_second(64, 1);
/// Once more than that fail, its handshakes are rationed for this long.
pub const RATIONED_FOR: Millis = Millis::from_secs(60);

/// Faults of an audited log that are told one by one; the others are counted.
pub const FAULTS_TOLD_MAX: usize = 1000;
