//! Records in memory: images as bytes, as they lie in the file, and labels. A batch is taken by
//! index and becomes f32 only then, so a data set needs a quarter of what floats would.

use tch::{Device, Kind, TchError, Tensor};

use consilium_common::study::model::cnn::Image;

/// Bytes gathered before they are copied to the device.
const CHUNK_BYTES: usize = 4 << 20;

/// Images (u8, records × channels × height × width) and labels (i64, records) on one device.
#[derive(Debug)]
pub(crate) struct Dataset {
    images: Tensor,
    labels: Tensor,
    len: usize,
}

/// What a step works on: images (f32, 0 to 1) and labels (i64).
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) images: Tensor,
    pub(crate) labels: Tensor,
}

impl Dataset {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The records of `index`, each below [`Dataset::len`].
    pub(crate) fn pick(&self, index: &[i64]) -> Result<Batch, TchError> {
        let index = Tensor::f_from_slice(index)?.f_to_device(self.images.device())?;
        batch(&self.images.f_index_select(0, &index)?, self.labels.f_index_select(0, &index)?)
    }

    /// `len` records from `start` on.
    pub(crate) fn range(&self, start: i64, len: i64) -> Result<Batch, TchError> {
        batch(&self.images.f_narrow(0, start, len)?, self.labels.f_narrow(0, start, len)?)
    }
}

/// `normalize = "unit"`: bytes divided by 255.
fn batch(bytes: &Tensor, labels: Tensor) -> Result<Batch, TchError> {
    let images = bytes.f_to_kind(Kind::Float)?.f_div_scalar_(255.0)?;
    Ok(Batch { images, labels })
}

/// Fills a [`Dataset`] record by record. Memory is taken once, for the records that will come.
#[derive(Debug)]
pub(crate) struct Filler {
    dataset: Dataset,
    sides: [i64; 3],
    record_bytes: usize,
    chunk: Vec<u8>,
    filled: i64,
}

impl Filler {
    pub(crate) fn new(size: Image, labels: &[u8], device: Device) -> Result<Self, TchError> {
        let sides = [size.channels, size.height, size.width].map(i64::from);
        let [channels, height, width] = sides;
        let len = i64::try_from(labels.len()).unwrap_or(i64::MAX);
        let images = Tensor::f_empty([len, channels, height, width], (Kind::Uint8, device))?;
        let labels = Tensor::f_from_slice(labels)?.f_to_device(device)?;
        let dataset =
            Dataset { images, len: labels.numel(), labels: labels.f_to_kind(Kind::Int64)? };
        let record_bytes = sides.iter().map(|&side| usize::try_from(side).unwrap_or(0)).product();
        Ok(Self { dataset, sides, record_bytes, chunk: Vec::new(), filled: 0 })
    }

    /// The next record's bytes.
    pub(crate) fn push(&mut self, record: &[u8]) -> Result<(), TchError> {
        self.chunk.extend_from_slice(record);
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), TchError> {
        let records = self.chunk.len().checked_div(self.record_bytes).unwrap_or(0);
        let records = i64::try_from(records).unwrap_or(i64::MAX);
        if records > 0 {
            let [channels, height, width] = self.sides;
            let size = [records, channels, height, width];
            let chunk = Tensor::f_from_data_size(&self.chunk, &size, Kind::Uint8)?;
            let mut place = self.dataset.images.f_narrow(0, self.filled, records)?;
            place.f_copy_(&chunk)?;
            self.filled += records;
            self.chunk.clear();
        }
        Ok(())
    }

    /// The whole data set. As many records must have been pushed as there were labels: the caller
    /// reads both from one [`super::select::Picks`].
    pub(crate) fn finish(mut self) -> Result<Dataset, TchError> {
        self.flush()?;
        debug_assert_eq!(usize::try_from(self.filled), Ok(self.dataset.len));
        Ok(self.dataset)
    }
}
