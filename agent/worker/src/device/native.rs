//! The one place with foreign calls: load a library, ask libtorch how it was built, ask the CUDA
//! runtime what is there. libtorch_cpu links that runtime, so its symbols are in this process when
//! the libtorch in use was built for CUDA; nothing here needs a driver or a GPU.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `cudaDevAttrComputeCapabilityMajor` and `…Minor` of `enum cudaDeviceAttr` (driver_types.h).
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;
/// libtorch's description of itself has about 3 KiB.
const CONFIG_BYTES: usize = 64 << 10;

unsafe extern "C" {
    /// src/device/show_config.cpp
    fn consilium_show_config(out: *mut c_char, capacity: usize) -> usize;
}

/// Loads a library with all its symbols, for the life of the process.
///
/// # Errors
/// What the dynamic loader said.
pub(super) fn load(library: &Path) -> Result<(), String> {
    let path = CString::new(library.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: `path` is a NUL-terminated string that lives through the call. Loading runs the
    // library's initialisers: it lies beside the libtorch_cpu.so that this process runs already, so
    // it is as trusted as that. The handle is not kept, and the library never unloaded.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror takes nothing; it returns null or a NUL-terminated string that stays valid
    // until this thread's next dl call, and is copied before.
    let said = unsafe {
        let text = libc::dlerror();
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    };
    Err(said.unwrap_or_else(|| "the loader did not say why".to_owned()))
}

/// `at::show_config()`.
pub(super) fn show_config() -> String {
    let mut bytes = vec![0_u8; CONFIG_BYTES];
    // SAFETY: the callee writes at most `bytes.len()` bytes to a buffer of that length that nobody
    // else holds, and throws nothing.
    let written = unsafe { consilium_show_config(bytes.as_mut_ptr().cast(), bytes.len()) };
    bytes.truncate(written);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The newest CUDA version that the driver serves, such as 13000; 0 without a driver. `None` if
/// there is no CUDA runtime in this process.
pub(super) fn driver_cuda_version() -> Option<i32> {
    ask(c"cudaDriverGetVersion")
}

/// GPUs that the driver shows.
pub(super) fn gpu_count() -> Option<i32> {
    ask(c"cudaGetDeviceCount")
}

/// A CUDA runtime call of the form `cudaError_t f(int *out)`.
fn ask(function: &CStr) -> Option<i32> {
    type Ask = unsafe extern "C" fn(*mut c_int) -> c_int;
    let address = symbol(function)?;
    let mut answer = 0;
    // SAFETY: both names given above have exactly this type in cuda_runtime_api.h, unchanged since
    // CUDA 2.2; `symbol` gave a non-null function address; `answer` is valid for the write.
    let error = unsafe {
        let function = std::mem::transmute::<*mut c_void, Ask>(address);
        function(&raw mut answer)
    };
    (error == 0).then_some(answer)
}

/// Compute capability of a GPU, such as (9, 0).
pub(super) fn capability(gpu: i32) -> Option<(i32, i32)> {
    type Attribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
    let address = symbol(c"cudaDeviceGetAttribute")?;
    let attribute = |which: c_int| {
        let mut answer = 0;
        // SAFETY: the type is that of cuda_runtime_api.h (int *value, enum of int size, int);
        // `symbol` gave a non-null function address; `answer` is valid for the write. A GPU that
        // does not exist is an error code.
        let error = unsafe {
            let function = std::mem::transmute::<*mut c_void, Attribute>(address);
            function(&raw mut answer, which, gpu)
        };
        (error == 0).then_some(answer)
    };
    attribute(CAPABILITY_MAJOR).zip(attribute(CAPABILITY_MINOR))
}

/// A symbol of any library that this process was linked with or has loaded for all.
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: `name` is NUL-terminated and lives through the call; RTLD_DEFAULT is a valid handle.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_there_loads_and_one_that_is_not_is_named() {
        let cpu = super::super::build::libtorch_folder().unwrap().join("libtorch_cpu.so");
        load(&cpu).unwrap();
        let said = load(Path::new("/nowhere/libtorch_cuda.so")).unwrap_err();
        assert!(said.contains("/nowhere/libtorch_cuda.so"), "{said}");
        load(Path::new("/\0")).unwrap_err();
    }

    #[test]
    fn libtorch_says_how_it_was_built() {
        let config = show_config();
        assert!(config.contains("TORCH_VERSION="), "{config}");
    }

    #[test]
    fn a_name_that_nothing_has_is_no_symbol() {
        assert_eq!(ask(c"consilium_no_such_function"), None);
        assert!(symbol(c"malloc").is_some());
        assert_eq!(capability(-1), None);
    }
}
