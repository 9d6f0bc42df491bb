//! How the libtorch in this process was built: version, CUDA version, GPU architectures.

use std::path::PathBuf;

/// From `at::show_config()`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Build {
    /// Such as `2.13.0`.
    pub(crate) torch: String,
    /// (major, minor) of the CUDA toolkit; `None` for a build without CUDA.
    pub(crate) cuda: Option<(u32, u32)>,
    /// GPU architectures with machine code in the build.
    pub(crate) architectures: Vec<Architecture>,
}

/// One `-gencode` of the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Architecture {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    /// `compute_…`: an intermediate form that newer drivers translate for newer GPUs.
    pub(crate) portable: bool,
}

impl Build {
    /// Reads the text of `at::show_config()`.
    pub(crate) fn parse(config: &str) -> Self {
        let value = |key: &str| {
            let (_, rest) = config.split_once(key)?;
            Some(rest.split([',', ' ', '\n']).next().unwrap_or(rest))
        };
        let cuda = value(" CUDA_VERSION=").and_then(|text| {
            let mut numbers = text.split('.').map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        });
        let codes = config.split("code=").skip(1);
        let mut architectures: Vec<Architecture> = codes.filter_map(architecture).collect();
        architectures.dedup();
        Self {
            torch: value(" TORCH_VERSION=").unwrap_or("of unknown version").to_owned(),
            cuda,
            architectures,
        }
    }

    /// Whether a GPU of this compute capability can run the build: machine code runs within its
    /// major version from its minor version on, the portable form on everything newer (CUDA C++
    /// Programming Guide, "Application Compatibility").
    pub(crate) fn serves(&self, (major, minor): (u32, u32)) -> bool {
        self.architectures.iter().any(|built| {
            if built.portable {
                (built.major, built.minor) <= (major, minor)
            } else {
                built.major == major && built.minor <= minor
            }
        })
    }

    /// Such as `7.5 8.0 9.0`.
    pub(crate) fn architectures_text(&self) -> String {
        let text = |built: &Architecture| {
            let newer = if built.portable { "+" } else { "" };
            format!("{}.{}{newer}", built.major, built.minor)
        };
        let all: Vec<String> = self.architectures.iter().map(text).collect();
        all.join(" ")
    }
}

/// `sm_90 …` or `compute_120 …`. Architecture-specific code (`sm_90a`) counts as its architecture.
fn architecture(text: &str) -> Option<Architecture> {
    let (portable, rest) = match text.strip_prefix("sm_") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("compute_")?),
    };
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    let number: u32 = digits.parse().ok()?;
    Some(Architecture { major: number / 10, minor: number % 10, portable })
}

/// The folder of the libtorch_cpu.so that runs in this process.
pub(crate) fn libtorch_folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    let path = PathBuf::from(line.get(line.find('/')?..)?);
    Some(path.parent()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "PyTorch built with:\n  - GCC 13.3\n  - Build settings: BLAS_INFO=mkl, \
        CUDA_FLAGS= -gencode arch=compute_80,code=sm_80 -gencode arch=compute_86,code=sm_86 \
        -gencode arch=compute_90,code=sm_90a -gencode arch=compute_120,code=compute_120 -Xfatbin, \
        CUDA_VERSION=13.0, CUDNN_VERSION=9.20.0, TORCH_VERSION=2.13.0, USE_CUDA=1, \n";

    #[test]
    fn a_build_is_read_from_its_description() {
        let build = Build::parse(CONFIG);
        assert_eq!(build.torch, "2.13.0");
        assert_eq!(build.cuda, Some((13, 0)));
        assert_eq!(build.architectures_text(), "8.0 8.6 9.0 12.0+");
        let cpu =
            Build::parse("  - Build settings: BLAS_INFO=mkl, TORCH_VERSION=2.13.0, USE_CUDA=0, ");
        assert_eq!((cpu.torch.as_str(), cpu.cuda), ("2.13.0", None));
        assert_eq!(Build::parse("").cuda, None);
    }

    #[test]
    fn code_serves_its_major_version_and_the_portable_form_what_is_newer() {
        let build = Build::parse(CONFIG);
        let served = [(8, 0), (8, 9), (9, 0), (12, 0), (12, 1), (13, 0)];
        assert!(served.into_iter().all(|gpu| build.serves(gpu)));
        assert!([(7, 5), (10, 0), (5, 2)].into_iter().all(|gpu| !build.serves(gpu)));
    }

    #[test]
    fn the_library_in_use_is_found() {
        assert!(libtorch_folder().unwrap().join("libtorch_cpu.so").is_file());
    }
}
