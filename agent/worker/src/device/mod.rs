//! Where a task computes: `auto`, `cpu` or `cuda:N`.
//!
//! libtorch's CUDA half is a library of its own that nothing links: it is loaded here, before
//! libtorch is first asked about CUDA (it remembers the answer), when driver and GPU fit the build.

pub(crate) mod build;
#[expect(unsafe_code, reason = "foreign calls; each has its proof and a test")]
mod native;
pub(crate) mod report;

use consilium_common::worker::FailureCode;
use tch::Device;

use self::build::{Build, libtorch_folder};
use crate::failure::Failure;

/// Why CUDA cannot be used; each names what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoCuda {
    #[error(
        "the libtorch in use was built without CUDA: `cargo xtask libtorch --cuda` fetches one"
    )]
    NotBuilt,
    #[error("libtorch_cuda.so is not installed: `cargo xtask libtorch --cuda` fetches it")]
    NotInstalled,
    #[error("no NVIDIA driver was found; this build needs one for {0}")]
    NoDriver(String),
    #[error("the NVIDIA driver{have} is too old; this build needs one for {need}")]
    OldDriver { have: String, need: String },
    #[error("the NVIDIA driver shows no GPU")]
    NoGpu,
    #[error("GPU {gpu} has compute capability {have}, this build serves {built}")]
    Architecture { gpu: i32, have: String, built: String },
    #[error("there is no GPU {gpu}: the driver shows {count}, counted from 0")]
    NoSuchGpu { gpu: i32, count: i32 },
    #[error("libtorch_cuda.so cannot be loaded: {0}")]
    Load(String),
    #[error("libtorch finds no usable GPU although driver and architecture fit")]
    Refused,
}

/// What a device is called in files and in `Reply::Hello`.
pub(crate) fn name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Mps => "mps".to_owned(),
        Device::Vulkan => "vulkan".to_owned(),
    }
}

/// The device that `wanted` names. `auto` is the first GPU if it can be used, else the CPU.
///
/// # Errors
/// Not a device, or not there.
pub(crate) fn choose(wanted: &str) -> Result<Device, Failure> {
    let missing = |message: String| Failure::new(FailureCode::DeviceMissing, message);
    match wanted {
        "cpu" => Ok(Device::Cpu),
        "auto" => match cuda(0) {
            Ok(device) => Ok(device),
            Err(reason) => {
                crate::log(&format!("device auto: computing on the CPU: {reason}"));
                Ok(Device::Cpu)
            }
        },
        other => {
            let index = other.strip_prefix("cuda:").and_then(|index| index.parse::<u16>().ok());
            let Some(index) = index else {
                let message = format!("device {other:?}: write \"auto\", \"cpu\" or \"cuda:0\"");
                return Err(missing(message));
            };
            cuda(index).map_err(|reason| missing(format!("device {other}: {reason}")))
        }
    }
}

/// GPU `index`, ready for use.
fn cuda(index: u16) -> Result<Device, NoCuda> {
    let build = Build::parse(&native::show_config());
    usable(&build, i32::from(index))?;
    let folder = libtorch_folder().ok_or(NoCuda::NotInstalled)?;
    native::load(&folder.join("libtorch_cuda.so")).map_err(NoCuda::Load)?;
    if tch::Cuda::is_available() { Ok(Device::Cuda(index.into())) } else { Err(NoCuda::Refused) }
}

/// Whether everything that can be asked without loading libtorch's CUDA half speaks for `gpu`.
fn usable(build: &Build, gpu: i32) -> Result<(), NoCuda> {
    let (major, minor) = build.cuda.ok_or(NoCuda::NotBuilt)?;
    let need = report::driver_needed(major, minor);
    let installed = libtorch_folder().is_some_and(|lib| lib.join("libtorch_cuda.so").is_file());
    if !installed {
        return Err(NoCuda::NotInstalled);
    }
    // The version is 1000 × major + 10 × minor; any driver of a major version serves all of it
    // (CUDA Compatibility, "Minor Version Compatibility").
    let served = native::driver_cuda_version().ok_or(NoCuda::NotBuilt)?;
    if served == 0 {
        return Err(NoCuda::NoDriver(need));
    }
    if u32::try_from(served).unwrap_or(0) / 1000 < major {
        let have = report::driver_found().map(|have| format!(" {have}")).unwrap_or_default();
        return Err(NoCuda::OldDriver { have, need });
    }
    let count = native::gpu_count().unwrap_or(0);
    if count == 0 {
        return Err(NoCuda::NoGpu);
    }
    if gpu >= count {
        return Err(NoCuda::NoSuchGpu { gpu, count });
    }
    let (major, minor) = native::capability(gpu).ok_or(NoCuda::Refused)?;
    let whole = |number| u32::try_from(number).unwrap_or(0);
    if build.serves((whole(major), whole(minor))) {
        return Ok(());
    }
    let (have, built) = (format!("{major}.{minor}"), build.architectures_text());
    Err(NoCuda::Architecture { gpu, have, built })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_cpu_or_a_numbered_gpu() {
        assert_eq!(choose("cpu").unwrap(), Device::Cpu);
        assert_eq!(name(Device::Cuda(3)), "cuda:3");
        for wrong in ["gpu", "cuda", "cuda:", "cuda:x", "cuda:-1", ""] {
            let failure = choose(wrong).unwrap_err();
            assert_eq!(failure.code, FailureCode::DeviceMissing);
            assert!(
                failure.message.ends_with("write \"auto\", \"cpu\" or \"cuda:0\""),
                "{failure}"
            );
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_answer_and_auto_is_never() {
        let failure = choose("cuda:65535").unwrap_err();
        assert_eq!(failure.code, FailureCode::DeviceMissing);
        assert!(failure.message.starts_with("device cuda:65535: "), "{failure}");
        choose("auto").unwrap();
    }

    #[test]
    fn a_build_without_cuda_says_so() {
        assert_eq!(usable(&Build::default(), 0), Err(NoCuda::NotBuilt));
    }
}
