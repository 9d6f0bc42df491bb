//! Why a task cannot be finished: a stable code, which may leave the site, and one sentence for
//! hospital IT, which stays there.

use consilium_common::limits::TEXT_BYTES_MAX;
use consilium_common::worker::FailureCode;
use tch::TchError;

/// What becomes `Reply::Failed`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) code: FailureCode,
    pub(crate) message: String,
}

impl Failure {
    /// The message is cut to one line of [`TEXT_BYTES_MAX`] bytes: libtorch's carry a stack trace.
    pub(crate) fn new(code: FailureCode, message: impl Into<String>) -> Self {
        let message = message.into();
        let line = message.lines().next().unwrap_or_default();
        let cut = line.floor_char_boundary(TEXT_BYTES_MAX);
        let message = line.get(..cut).unwrap_or_default().to_owned();
        Self { code, message }
    }

    /// A stop was asked for.
    pub(crate) fn stopped() -> Self {
        Self::new(FailureCode::Stopped, "stopped before the task was finished")
    }
}

impl From<TchError> for Failure {
    fn from(error: TchError) -> Self {
        Self::new(FailureCode::Internal, format!("libtorch: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_trace_of_libtorch_becomes_one_sentence() {
        let trace = format!("out of memory {}\nframe #0: c10::Error", "é".repeat(600));
        let failure = Failure::from(TchError::Torch(trace));
        assert_eq!(failure.code, FailureCode::Internal);
        assert!(failure.message.starts_with("libtorch: Internal torch error: out of memory é"));
        assert!(failure.message.len() <= TEXT_BYTES_MAX && !failure.message.contains("frame"));
    }

    #[test]
    fn a_tensor_that_fits_no_memory_is_an_answer_not_an_abort() {
        let huge = tch::Tensor::f_zeros([1_i64 << 52], tch::kind::FLOAT_CPU);
        let failure = Failure::from(huge.unwrap_err());
        assert_eq!(failure.code, FailureCode::Internal);
        assert!(failure.message.contains("allocate"), "{failure}");
    }
}
