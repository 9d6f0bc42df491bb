//! Images in memory: bytes, as they lie in the file. A batch becomes f32 only when it is used, so a
//! data set needs a quarter of what floats would.

use tch::{Device, Kind, TchError, Tensor};

use consilium_common::study::model::cnn::Image;

use super::dataset::Dataset;

/// Bytes gathered before they are copied to the device.
const CHUNK_BYTES: usize = 4 << 20;

/// Fills a [`Dataset`] record by record: images (u8, records × channels × height × width) and labels.
/// Memory is taken once, for the records that will come.
#[derive(Debug)]
pub(crate) struct Filler {
    images: Tensor,
    labels: Tensor,
    sides: [i64; 3],
    record_bytes: usize,
    chunk: Vec<u8>,
    filled: i64,
}

impl Filler {
    /// For records with these labels, one each.
    pub(crate) fn new(size: Image, labels: &Tensor, device: Device) -> Result<Self, TchError> {
        let sides = [size.channels, size.height, size.width].map(i64::from);
        let [channels, height, width] = sides;
        let len = labels.size().first().copied().unwrap_or(0);
        let images = Tensor::f_empty([len, channels, height, width], (Kind::Uint8, device))?;
        let labels = labels.f_to_device(device)?;
        let record_bytes = sides.iter().map(|&side| usize::try_from(side).unwrap_or(0)).product();
        Ok(Self { images, labels, sides, record_bytes, chunk: Vec::new(), filled: 0 })
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
            let mut place = self.images.f_narrow(0, self.filled, records)?;
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
        debug_assert_eq!(Some(&self.filled), self.labels.size().first());
        Ok(Dataset::new(vec![self.images], self.labels))
    }
}
