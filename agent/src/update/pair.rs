//! Base and trained model side by side, read a piece at a time by position: the daemon never holds a
//! model in memory, however large it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use consilium_common::ids::Digest;
use consilium_common::le;
use consilium_common::limits::CHUNK_BYTES;
use consilium_common::tensor::file::{FileError, Places};
use consilium_common::tensor::flat::{
    MODEL_HEADER_BYTES, ModelError, check_model_header, model_bytes_len,
};
use consilium_common::tensor::layout::{Kind, Layout};
use consilium_common::update::delta::extend_delta;

use super::UpdateError;

/// Parameters of one piece.
const PIECE: usize = CHUNK_BYTES / 4;

/// Bytes that are read by position.
pub trait ReadAt: Sync {
    /// How many.
    ///
    /// # Errors
    /// The system refused.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// They end before, or the system refused.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl ReadAt for &[u8] {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let bytes = rest.and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The two models of one layout.
pub(super) struct Pair<'a> {
    layout: &'a Layout,
    base: &'a dyn ReadAt,
    trained: &'a dyn ReadAt,
    places: Places,
}

impl std::fmt::Debug for Pair<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("layout", &self.layout.digest()).finish_non_exhaustive()
    }
}

impl<'a> Pair<'a> {
    /// `base` is a model file, `trained` a safetensors file.
    pub(super) fn open(
        layout: &'a Layout,
        base: &'a dyn ReadAt,
        trained: &'a dyn ReadAt,
    ) -> Result<Self, UpdateError> {
        let (have, need) = (base.bytes()?, model_bytes_len(layout));
        if have < MODEL_HEADER_BYTES as u64 {
            return Err(ModelError::Magic.into());
        }
        let mut header = [0; MODEL_HEADER_BYTES];
        base.read_at(&mut header, 0)?;
        check_model_header(&header, layout)?;
        if have != need {
            return Err(ModelError::Length { have, need }.into());
        }
        Ok(Self { layout, base, trained, places: places(layout, trained)? })
    }

    /// Reads both through: gives `take` the delta of every piece of weights in order, and says what
    /// digest the base has.
    pub(super) fn read_through(&self, take: impl FnMut(&[f32])) -> Result<Digest, UpdateError> {
        let mut hasher = blake3::Hasher::new();
        let mut header = [0; MODEL_HEADER_BYTES];
        self.base.read_at(&mut header, 0)?;
        hasher.update(&header);
        self.walk(Some(&mut hasher), take)?;
        Ok(hasher.finalize().into())
    }

    /// Gives `take` the delta of every piece of weights in order.
    pub(super) fn deltas(&self, take: impl FnMut(&[f32])) -> Result<(), UpdateError> {
        self.walk(None, take)
    }

    fn walk(
        &self,
        mut hasher: Option<&mut blake3::Hasher>,
        mut take: impl FnMut(&[f32]),
    ) -> Result<(), UpdateError> {
        let (mut bytes, mut delta) = (Vec::new(), Vec::new());
        let (mut base, mut trained) = (Vec::new(), Vec::new());
        for (tensor, place) in self.layout.tensors().iter().zip(self.places.iter()) {
            let is_weight = tensor.kind == Kind::Weight;
            if !is_weight && hasher.is_none() {
                continue;
            }
            for first in (0..tensor.len).step_by(PIECE) {
                bytes.resize(4 * PIECE.min(tensor.len - first), 0);
                let at = tensor.offset + first;
                self.base.read_at(&mut bytes, (MODEL_HEADER_BYTES + 4 * at) as u64)?;
                if let Some(hasher) = &mut hasher {
                    hasher.update(&bytes);
                }
                if !is_weight {
                    continue;
                }
                base.clear();
                base.extend(le::f32s(&bytes));
                self.trained.read_at(&mut bytes, place + 4 * first as u64)?;
                trained.clear();
                trained.extend(le::f32s(&bytes));
                delta.clear();
                extend_delta(&mut delta, at, &base, &trained)?;
                take(&delta);
            }
        }
        Ok(())
    }
}

/// Where the tensors lie in a safetensors file.
pub(crate) fn places(layout: &Layout, trained: &dyn ReadAt) -> Result<Places, UpdateError> {
    let total = trained.bytes()?;
    let short = || FileError::Format("it is shorter than its header".to_owned());
    let mut length = [0; 8];
    if total < length.len() as u64 {
        return Err(short().into());
    }
    trained.read_at(&mut length, 0)?;
    let head_bytes = Places::head_bytes(length)?;
    if (head_bytes as u64) > total {
        return Err(short().into());
    }
    let mut head = vec![0; head_bytes];
    trained.read_at(&mut head, 0)?;
    Ok(Places::read(&head, total, layout)?)
}
