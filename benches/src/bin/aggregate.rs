//! The kernels of exact aggregation against the machine's memory: bytes moved a second, one core.

#![forbid(unsafe_code)]

use std::hint::black_box;

use anyhow::Context as _;
use clap::Parser;
use consilium_benches::process::now;
use consilium_benches::{Row, median, print};
use consilium_common::random::Generator;
use consilium_common::study::ServerOptimizer;
use consilium_common::tensor::layout::{Kind, Layout};
use consilium_common::update::delta::{clip_scale, l2_norm};
use consilium_common::update::grid::{quantise, step_exponent};
use consilium_coordinator::aggregate::{Before, Next, ServerStep, Sum, segments};

/// Time the kernels of exact aggregation
#[derive(Debug, Parser)]
struct Args {
    /// Coordinates
    #[arg(long, default_value_t = 16_000_000)]
    coordinates: u32,
    /// Repeats; medians are printed
    #[arg(long, default_value_t = 9)]
    repeats: u32,
    /// One JSON array
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let n = args.coordinates as usize;
    let mut generator = Generator::new("bench", b"aggregate");
    #[expect(clippy::cast_possible_truncation, reason = "any f32 serves")]
    let delta: Vec<f32> = (0..n).map(|_| (generator.unit() - 0.5) as f32).collect();
    let norm = l2_norm(&delta);
    let exponent = step_exponent(norm);
    let units = quantise(&delta, clip_scale(norm, norm), exponent, &mut generator);
    let bytes: Vec<u8> = units.iter().flat_map(|x| x.to_le_bytes()).collect();
    let base: Vec<u8> = delta.iter().flat_map(|x| x.to_le_bytes()).collect();

    let mut target = vec![0_i64; n];
    let source = target.clone();
    let copy = time(args.repeats, || target.copy_from_slice(black_box(&source)));
    let mut sum = Sum::new(n);
    let share = sum.admit(15_000)?;
    let mut failed = None;
    let add = time(args.repeats, || failed = sum.add_bytes(share, 0, black_box(&bytes)).err());
    failed.map_or(Ok(()), Err)?;
    let digest = time(args.repeats, || {
        black_box(sum.digest());
    });
    let average = time_average(&args, &base, &sum)?;
    let encode = time(args.repeats, || {
        drop(black_box(quantise(black_box(&delta), 1.0, exponent, &mut generator)));
    });

    let gigabytes = |per_coordinate: f64, seconds: f64| per_coordinate * n as f64 / 1e9 / seconds;
    let copy_rate = gigabytes(16.0, copy);
    let add_rate = gigabytes(20.0, add);
    let rows = [
        Row::plain("copy of i64, read and written", copy_rate, "GB/s"),
        Row::plain("sum += weight · update, read and written", add_rate, "GB/s"),
        Row::plain("that sum against the copy", add_rate / copy_rate, "×"),
        Row::plain("one update added", add * 1e3, "ms"),
        Row::plain("digest of the sum", gigabytes(8.0, digest), "GB/s"),
        Row::plain("next model from base and sum", average * 1e3, "ms"),
        Row::plain("clip and round a delta (at the site)", encode * 1e3, "ms"),
    ];
    print(&rows, args.json)
}

fn time_average(args: &Args, base: &[u8], sum: &Sum) -> anyhow::Result<f64> {
    let spec = ("parameters".to_owned(), vec![args.coordinates], Kind::Weight);
    let layout = Layout::new([spec])?;
    let average = ServerStep::new(ServerOptimizer::Mean { learning_rate: 1.0 }, 15_000, -26)?;
    let mut out = Next::default();
    let mut next = || -> anyhow::Result<()> {
        for segment in segments(&layout) {
            out.model.clear();
            let base = base.get(4 * segment.vector.start..4 * segment.vector.end);
            let before = Before { base: base.context("a segment out of range")?, state: None };
            average.next_segment(&segment, before, sum.as_slice(), &mut out)?;
            black_box(&out);
        }
        Ok(())
    };
    let mut result = Ok(());
    let seconds = time(args.repeats, || result = next());
    result.map(|()| seconds)
}

/// Median seconds of a run.
fn time(repeats: u32, mut work: impl FnMut()) -> f64 {
    let times: Vec<f64> = (0..repeats)
        .map(|_| {
            let start = now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    median(&times)
}
