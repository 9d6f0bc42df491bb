//! Models that operators bring: the v0 of a study that was signed with `--start`. Which are awaited, and
//! what one must be before rounds start from it. The digest in the signed study names its bytes.

use std::collections::VecDeque;

use consilium_common::ids::Digest;
use consilium_common::le;
use consilium_common::limits::CHUNK_BYTES;
use consilium_common::tensor::flat::{
    MODEL_HEADER_BYTES, ModelError, check_model_header, model_bytes_len,
};
use consilium_common::tensor::layout::Layout;
use consilium_io::disk::BlobError;

use crate::limits::GIVEN_AWAITED_MAX;
use crate::store::Blobs;

/// Models that operators were told to bring: digests and lengths, the oldest first.
#[derive(Debug, Default)]
pub struct Awaited(VecDeque<(Digest, u64)>);

impl Awaited {
    /// From here on this model is taken. Of too many the oldest is forgotten: whoever still brings it
    /// asks again.
    pub fn expect(&mut self, digest: Digest, bytes: u64) {
        self.taken(digest);
        if self.0.len() == GIVEN_AWAITED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((digest, bytes));
    }

    /// Whether it is awaited, with this length.
    #[must_use]
    pub fn expects(&self, digest: Digest, bytes: u64) -> bool {
        self.0.contains(&(digest, bytes))
    }

    /// It is here.
    pub fn taken(&mut self, digest: Digest) {
        self.0.retain(|(awaited, _)| *awaited != digest);
    }
}

/// Why a model cannot be a study's v0.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    /// Nobody brought it.
    #[error("its v0, model {0}, is not here: submit it with `--start FILE.safetensors`")]
    Missing(Digest),
    /// Of another layout or length.
    #[error("its v0 cannot be used: {0}")]
    Model(#[from] ModelError),
    /// Sites refuse such a base.
    #[error("its v0 cannot be used: it holds NaN or infinity")]
    NotFinite,
    /// The disk.
    #[error("its v0 cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The disk.
    #[error("its v0 cannot be read: {0}")]
    Blob(BlobError),
}

impl GivenError {
    /// Whether it is the submission's fault.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Missing(_) | Self::Model(_) | Self::NotFinite => true,
            Self::Read(_) | Self::Blob(_) => false,
        }
    }
}

/// Reads a model through: one of this layout, all of its numbers finite. Blocks; a megabyte of it is in
/// memory.
///
/// # Errors
/// It is not here, or cannot be a v0.
pub fn check(blobs: &dyn Blobs, digest: Digest, layout: &Layout) -> Result<(), GivenError> {
    let blob = blobs.open(digest).map_err(|error| match error {
        BlobError::Missing(_) => GivenError::Missing(digest),
        other @ (BlobError::Io(_)
        | BlobError::Format { .. }
        | BlobError::Digest { .. }
        | BlobError::TooLarge { .. }
        | BlobError::Busy(_)
        | BlobError::Broken(_)) => GivenError::Blob(other),
    })?;
    let (have, need) = (blob.length(), model_bytes_len(layout));
    let mut buffer = vec![0; MODEL_HEADER_BYTES];
    if have < MODEL_HEADER_BYTES as u64 {
        return Err(ModelError::Magic.into());
    }
    blob.read_at(0, &mut buffer)?;
    check_model_header(&buffer, layout)?;
    if have != need {
        return Err(ModelError::Length { have, need }.into());
    }
    let mut at = MODEL_HEADER_BYTES as u64;
    while at < need {
        buffer.resize(usize::try_from(need - at).unwrap_or(usize::MAX).min(CHUNK_BYTES), 0);
        blob.read_at(at, &mut buffer)?;
        if !le::f32s(&buffer).all(f32::is_finite) {
            return Err(GivenError::NotFinite);
        }
        at += buffer.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use consilium_common::tensor::flat::encode_model;
    use consilium_common::tensor::layout::Kind;

    use super::*;
    use crate::store::files::Files;

    fn layout(len: u32) -> Layout {
        Layout::new([("a".to_owned(), vec![len], Kind::Weight)]).unwrap()
    }

    #[tokio::test]
    async fn a_given_model_is_here_of_the_studys_layout_and_finite() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Files::open(folder.path()).unwrap();
        let large = u32::try_from(CHUNK_BYTES / 4 + 7).unwrap();
        let layout = layout(large);
        let mut vector = vec![0.5; large as usize];
        let good = encode_model(&layout, &vector);
        assert!(matches!(check(&blobs, Digest::of(&good), &layout), Err(GivenError::Missing(_))));
        let kept = blobs.put(good.clone()).await.unwrap();
        check(&blobs, kept, &layout).unwrap();
        let other = self::layout(3);
        assert!(matches!(check(&blobs, kept, &other), Err(GivenError::Model(_))));
        let longer = blobs.put([good, vec![0; 4]].concat()).await.unwrap();
        assert!(matches!(check(&blobs, longer, &layout), Err(GivenError::Model(_))));
        let short = blobs.put(b"consilium/model/1".to_vec()).await.unwrap();
        assert!(matches!(check(&blobs, short, &layout), Err(GivenError::Model(_))));
        // In the last chunk.
        vector[large as usize - 1] = f32::NAN;
        let bad = blobs.put(encode_model(&layout, &vector)).await.unwrap();
        assert!(matches!(check(&blobs, bad, &layout), Err(GivenError::NotFinite)));
    }

    #[test]
    fn a_few_models_are_awaited_with_their_length_until_they_are_here() {
        let mut awaited = Awaited::default();
        let digest = |n: u8| Digest([n; 32]);
        awaited.expect(digest(1), 10);
        assert!(awaited.expects(digest(1), 10) && !awaited.expects(digest(1), 11));
        awaited.expect(digest(1), 12);
        assert!(!awaited.expects(digest(1), 10) && awaited.expects(digest(1), 12));
        (2..).take(GIVEN_AWAITED_MAX).for_each(|n| awaited.expect(digest(n), 10));
        assert!(!awaited.expects(digest(1), 12), "the oldest is forgotten");
        awaited.taken(digest(3));
        assert!(!awaited.expects(digest(3), 10) && awaited.expects(digest(2), 10));
    }
}
