//! `--version` and `--check-device`, for hospital IT.

use consilium_common::worker::FailureCode;
use tch::{Kind, Tensor};

use super::build::Build;
use super::{choose, name, native, usable};
use crate::failure::Failure;

/// The line of `/proc/driver/nvidia/version` that names the driver.
const DRIVER_LINE: &str = "NVRM version:";

/// Worker, libtorch, CUDA, driver, GPU: a line each.
pub(crate) fn version() -> String {
    let build = Build::parse(&native::show_config());
    let worker = format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let (cuda, driver) = match build.cuda {
        None => ("none".to_owned(), "not needed".to_owned()),
        Some((major, minor)) => {
            let built = build.architectures_text();
            let found = driver_found().unwrap_or_else(|| "none".to_owned());
            let need = driver_needed(major, minor);
            (
                format!("{major}.{minor}, GPUs of compute capability {built}"),
                format!("{found} found, one for {need} needed"),
            )
        }
    };
    let gpu = match usable(&build, 0) {
        Ok(()) => "GPU 0 can be used".to_owned(),
        Err(reason) => format!("not used: {reason}"),
    };
    let torch = &build.torch;
    format!(
        "{worker}\nlibtorch {torch}\nbuilt for CUDA: {cuda}\nNVIDIA driver: {driver}\nGPU: {gpu}"
    )
}

/// Computes something small on the device; says which it is.
pub(crate) fn check_device(wanted: &str) -> Result<String, Failure> {
    let device = choose(wanted)?;
    let x = Tensor::f_arange(16, (Kind::Float, device))?.f_view([1, 1, 4, 4])?;
    let kernel = Tensor::f_ones([1, 1, 3, 3], (Kind::Float, device))?.set_requires_grad(true);
    let sum = x.f_conv2d::<Tensor>(&kernel, None, [1, 1], [0, 0], [1, 1], 1)?.f_sum(Kind::Float)?;
    let gradient = Tensor::f_run_backward(&[&sum], &[&kernel], false, false)?;
    let gradient = gradient
        .first()
        .map_or(Ok(f64::NAN), |g| g.f_sum(Kind::Float).and_then(|sum| sum.f_double_value(&[])))?;
    // Four 3×3 windows over 0…15: exact in f32.
    if (sum.f_double_value(&[])? - 270.0).abs() < 1e-3 && (gradient - 270.0).abs() < 1e-3 {
        return Ok(format!("{}: computes", name(device)));
    }
    let message = format!("{} computes wrongly: a convolution gave another sum", name(device));
    Err(Failure::new(FailureCode::DeviceMissing, message))
}

/// The NVIDIA driver's version, if its kernel module is loaded.
pub(super) fn driver_found() -> Option<String> {
    parse_driver(&std::fs::read_to_string("/proc/driver/nvidia/version").ok()?)
}

/// The first word of the driver's line that is a version number.
fn parse_driver(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(DRIVER_LINE))?;
    let is_version =
        |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    line.split_whitespace().find(is_version).map(str::to_owned)
}

/// What a driver must serve, with the first driver that does (CUDA Toolkit Release Notes, table
/// "CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility").
pub(super) fn driver_needed(major: u32, minor: u32) -> String {
    let first = match major {
        11 => " (450.80.02 or later)",
        12 => " (525 or later)",
        13 => " (580 or later)",
        _ => "",
    };
    format!("CUDA {major}.{minor}{first}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_read_from_either_kernel_module() {
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release \
                    Build  (dvs-builder@U22)  Tue Sep 23\nGCC version:  gcc version 13.3.0\n";
        assert_eq!(parse_driver(open).as_deref(), Some("580.95.05"));
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 2023";
        assert_eq!(parse_driver(closed).as_deref(), Some("535.104.05"));
        assert_eq!(parse_driver("nothing of the kind"), None);
    }

    #[test]
    fn the_version_says_all_five_things() {
        let text = version();
        for needle in ["consilium-worker ", "libtorch 2", "CUDA", "driver", "GPU"] {
            assert!(text.contains(needle), "{text}");
        }
        assert_eq!(text.lines().count(), 5);
    }

    #[test]
    fn the_cpu_computes() {
        assert_eq!(check_device("cpu").unwrap(), "cpu: computes");
        check_device("cuda:65535").unwrap_err();
    }
}
