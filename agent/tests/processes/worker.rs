//! Real child processes: the synthetic trainer, and workers that crash, hang, lie and scream.

use std::time::Duration;

use crate::support::{Bench, preparing, script, study, study_with_local, synthetic};
use consilium_agent::session::Fault;
use consilium_agent::update::read_counts;
use consilium_agent::worker::synthetic::{counts, half_way, optimum, shifted};
use consilium_agent::worker::{Launch, WorkerFault};
use consilium_common::study::Preparation;
use consilium_common::tensor::file::from_safetensors;
use consilium_common::wire::reject::Code;
use consilium_common::worker::{FailureCode, Phase, Work};
use consilium_io::disk::replace;

const HELLO: &str =
    r#"read task; printf '{"kind":"hello","protocol":1,"worker":"w","device":"cpu"}\n' >&0;"#;

#[tokio::test]
async fn the_synthetic_trainer_goes_half_of_the_way_to_its_optimum() {
    let bench = Bench::new(study(5, 1), Work::Train);
    let (outcome, lines) = bench.run(&synthetic()).await;
    let outcome = outcome.unwrap();
    assert_eq!((outcome.examples, outcome.holdout), (80, 20));
    assert_eq!(outcome.metrics.0[0], 20);
    let batches: Vec<u64> = lines
        .iter()
        .filter(|moved| moved.phase == Phase::Training)
        .map(|moved| moved.done)
        .collect();
    assert_eq!(batches, [1, 2, 3, 4, 5]);

    let layout = bench.study.layout().unwrap();
    let trained = from_safetensors(&bench.files.read_result().unwrap(), &layout).unwrap();
    let goal = optimum(7, &bench.task.source, 50);
    assert_eq!(trained, half_way(&[0.0; 50], &goal));
    let (again, _) = bench.run(&synthetic()).await;
    assert_eq!(again.unwrap(), outcome, "the same task gives the same result");
}

#[tokio::test]
async fn its_counters_go_up_with_each_training_and_shift_its_optimum() {
    let mut bench = Bench::new(study_with_local(1, 0, 3), Work::Train);
    let layout = bench.study.layout().unwrap();
    let mut losses = Vec::new();
    for rounds in 0..3_u32 {
        let (outcome, _) = bench.run(&synthetic()).await;
        losses.push(outcome.unwrap().metrics);
        let trained = from_safetensors(&bench.files.read_result().unwrap(), &layout).unwrap();
        let goal = optimum(7, &bench.task.source, 50);
        let goal: Vec<f32> = goal.iter().map(|optimum| shifted(*optimum, rounds)).collect();
        assert_eq!(trained, half_way(&[0.0; 50], &goal));
        let next = std::fs::read(bench.files.local_out()).unwrap();
        assert_eq!(next, (rounds + 1).to_le_bytes().repeat(3));
        replace(&bench.files.local(), &next).unwrap();
        bench.task.local = Some(bench.files.local());
    }
    assert!(losses[0] != losses[1] && losses[1] != losses[2], "the base is scored with them");
    std::fs::remove_file(bench.files.local_out()).unwrap();
    bench.task.work = Work::Evaluate;
    (bench.task.out, bench.task.local_out) = (None, None);
    let (scored, _) = bench.run(&synthetic()).await;
    assert_eq!(scored.unwrap().metrics.0.len(), 2);
    assert!(!bench.files.local_out().exists(), "scoring changes nothing");
}

#[tokio::test]
async fn counters_of_another_study_or_that_disagree_are_refused() {
    for (counters, wrong) in [
        (3, vec![1, 0, 0, 0]),
        (1, [1_u32, 2].map(u32::to_le_bytes).concat()),
        (2, [1_u32, 2].map(u32::to_le_bytes).concat()),
        (0, vec![0; 4]),
    ] {
        let mut bench = Bench::new(study_with_local(1, 0, counters), Work::Train);
        replace(&bench.files.local(), &wrong).unwrap();
        bench.task.local = Some(bench.files.local());
        let (ended, _) = bench.run(&synthetic()).await;
        let refused =
            matches!(ended, Err(WorkerFault::Failed { code: FailureCode::ModelMismatch, .. }));
        assert!(refused, "{counters}, {wrong:?}: {ended:?}");
        assert!(!bench.files.local_out().exists() && !bench.files.result().exists());
    }
}

#[tokio::test]
async fn it_scores_and_checks_without_training() {
    let (scored, _) = Bench::new(study(1, 0), Work::Evaluate).run(&synthetic()).await;
    assert_eq!(scored.unwrap().metrics.0.len(), 2);
    let mut bench = Bench::new(study(1, 0), Work::Check);
    bench.task.base = None;
    let (checked, _) = bench.run(&synthetic()).await;
    assert_eq!(checked.unwrap().findings.len(), 1);
}

#[tokio::test]
async fn it_counts_for_a_study_that_prepares_and_trains_it_only_with_the_sums() {
    let bench = Bench::new(preparing(1_000), Work::Prepare);
    let (done, lines) = bench.run(&synthetic()).await;
    assert_eq!(done.unwrap().examples, 80);
    assert!(lines.iter().all(|moved| matches!(moved.phase, Phase::Loading | Phase::Saving)));
    let counted = read_counts(1_000, &bench.files.open_counts().unwrap()).unwrap();
    assert_eq!(counted, counts(7, &bench.task.source, 1_000));
    assert!(counted.iter().any(|count| *count < 0) && counted.iter().any(|count| *count > 0));

    let mut bench = Bench::new(preparing(1_000), Work::Train);
    let said = |ended: Result<_, WorkerFault>| ended.unwrap_err().to_string();
    let (ended, _) = bench.run(&synthetic()).await;
    assert!(said(ended).contains("the task names no preparation"));
    let terms = bench.study.preparation_terms().unwrap();
    let sums: Vec<i64> = counted.into_iter().map(i64::from).collect();
    let short = Preparation { terms, sites: 1, sums: sums[1..].to_vec() };
    bench.task.preparation = Some(bench.files.preparation());
    bench.files.write_preparation(&short.encode()).unwrap();
    let (ended, _) = bench.run(&synthetic()).await;
    assert!(said(ended).contains("999 sums, the study counts 1000"));
    bench.files.write_preparation(&Preparation { sums, ..short }.encode()).unwrap();
    let (trained, _) = bench.run(&synthetic()).await;
    assert_eq!(trained.unwrap().examples, 80);

    let (ended, _) = Bench::new(study(1, 0), Work::Prepare).run(&synthetic()).await;
    assert!(said(ended).contains("study load prepares nothing"));
}

#[tokio::test]
async fn sites_with_other_data_have_other_optima() {
    let (a, b) = (crate::support::source(100), crate::support::source(101));
    assert_ne!(optimum(7, &a, 4), optimum(7, &b, 4));
    assert_ne!(optimum(7, &a, 4), optimum(8, &a, 4));
}

#[tokio::test]
async fn a_stop_ends_it_between_two_batches() {
    let bench = Bench::new(study(1000, 20), Work::Train);
    let stop = bench.stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.cancel();
    });
    let (ended, lines) = bench.run(&synthetic()).await;
    assert!(matches!(ended, Err(WorkerFault::Stopped)), "{ended:?}");
    assert!(lines.len() < 500);
    assert!(!bench.files.result().exists());
}

async fn fault(launch: &Launch) -> WorkerFault {
    let (ended, _) = Bench::new(study(1, 0), Work::Train).run(launch).await;
    ended.unwrap_err()
}

fn is_retryable(fault: WorkerFault) -> bool {
    Fault::from(fault).retryable
}

#[tokio::test]
async fn a_killed_crashed_or_aborted_worker_is_told_by_its_signal_and_worth_a_retry() {
    for (signal, said) in [
        ("KILL", "SIGKILL"),
        ("SEGV", "SIGSEGV"),
        ("ABRT", "failed allocation"),
        ("BUS", "SIGBUS"),
        ("USR1", "signal 10"),
    ] {
        let fault = fault(&script(&format!("{HELLO} kill -{signal} $$; sleep 5"))).await;
        assert!(fault.to_string().contains(said), "{signal}: {fault}");
        assert!(is_retryable(fault), "{signal}");
    }
}

#[tokio::test]
async fn a_worker_that_exits_without_an_answer_is_told_by_its_last_words() {
    let fault = fault(&script(&format!("{HELLO} echo 'no such layer' >&2; exit 3"))).await;
    let text = fault.to_string();
    assert!(text.contains("exit code 3") && text.contains("no such layer"), "{text}");
    assert!(is_retryable(fault));
}

#[tokio::test]
async fn a_hanging_worker_is_killed_after_the_idle_timeout() {
    let mut bench = Bench::new(study(1, 0), Work::Train);
    bench.idle = Duration::from_millis(300);
    let (ended, _) = bench.run(&script(&format!("{HELLO} sleep 600"))).await;
    let fault = ended.unwrap_err();
    assert!(matches!(fault, WorkerFault::Hung(_)), "{fault}");
    assert!(is_retryable(fault));
}

#[tokio::test]
async fn progress_keeps_a_slow_worker_alive() {
    let mut bench = Bench::new(study(1, 0), Work::Train);
    bench.idle = Duration::from_millis(800);
    let progress = r#"printf '{"kind":"progress","phase":"training","done":1,"total":9,"new":0}\n' >&0; sleep 0.3;"#;
    let done = r#"printf '{"kind":"done","examples":4,"holdout":1}\n' >&0"#;
    let script = script(&format!("{HELLO} {} {done}", progress.repeat(4)));
    let (ended, lines) = bench.run(&script).await;
    assert_eq!((ended.unwrap().examples, lines.len()), (4, 4));
}

#[tokio::test]
async fn an_endless_line_is_cut_off() {
    let fault = fault(&script(&format!("{HELLO} tr '\\0' x >&0 </dev/zero"))).await;
    assert!(matches!(fault, WorkerFault::LongLine), "{fault}");
    assert!(!is_retryable(fault));
}

#[tokio::test]
async fn another_protocol_version_is_refused_with_what_to_do() {
    let hello =
        r#"printf '{"kind":"hello","protocol":2,"worker":"w 9","device":"cpu"}\n' >&0; sleep 9"#;
    let fault = fault(&script(hello)).await;
    assert!(matches!(fault, WorkerFault::Version { theirs: 2, .. }), "{fault}");
    assert!(fault.to_string().contains("same release"), "{fault}");
    assert_eq!(Fault::from(fault).code, Code::NotSupported);
}

#[tokio::test]
async fn noise_and_answers_before_the_hello_are_broken_protocol() {
    for text in [
        r"printf 'hello\n' >&0; sleep 9",
        r#"printf '{"kind":"done","examples":4,"holdout":1}\n' >&0; sleep 9"#,
        r#"printf '{"kind":"dance"}\n' >&0; sleep 9"#,
    ] {
        let fault = fault(&script(text)).await;
        assert!(matches!(fault, WorkerFault::Protocol(_)), "{text}: {fault}");
    }
}

#[tokio::test]
async fn a_workers_own_word_decides_code_and_retry() {
    for (code, expected, retry) in [
        ("data-missing", Code::DataNotReady, false),
        ("too-few-examples", Code::TooFewExamples, false),
        ("diverged", Code::Diverged, false),
        ("internal", Code::WorkerFailed, true),
    ] {
        let failed = format!(
            r#"printf '{{"kind":"failed","code":"{code}","message":"/data is gone"}}\n' >&0"#
        );
        let fault = fault(&script(&format!("{HELLO} {failed}"))).await;
        assert!(fault.to_string().contains("/data is gone"), "{fault}");
        let fault = Fault::from(fault);
        assert_eq!((fault.code, fault.retryable), (expected, retry));
    }
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let launch = Launch { program: "/nowhere/consilium-worker".into(), arguments: Vec::new() };
    let fault = fault(&launch).await;
    assert!(fault.to_string().contains("/nowhere/consilium-worker"), "{fault}");
    assert_eq!(Fault::from(fault).code, Code::SiteFault);
}

#[tokio::test]
async fn a_screaming_worker_fills_nothing() {
    let scream = format!("{HELLO} yes scream | head -c 20000000 >&2; exit 1");
    let fault = fault(&script(&scream)).await;
    assert!(fault.to_string().contains("exit code 1"), "{fault}");
}

#[tokio::test]
async fn too_few_records_are_told_before_training() {
    let mut bench = Bench::new(study(1, 0), Work::Train);
    bench.task.source.examples = Some(0);
    let (ended, _) = bench.run(&synthetic()).await;
    let failed =
        matches!(ended, Err(WorkerFault::Failed { code: FailureCode::TooFewExamples, .. }));
    assert!(failed, "{ended:?}");
}

#[tokio::test]
async fn a_dropped_task_kills_its_worker() {
    let bench = Bench::new(study(1, 0), Work::Train);
    let marker = format!("{HELLO} sleep 4711");
    let launch = script(&marker);
    let running = tokio::time::timeout(Duration::from_millis(300), bench.run(&launch)).await;
    assert!(running.is_err());
    for _ in 0..100 {
        if !crate::support::children(std::process::id()).iter().any(|pid| is(*pid, "4711")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the worker outlives its task");
}

fn is(pid: u32, word: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(word))
}
