//! Models, preparations, safetensors files, and layouts.

use std::collections::HashMap;
use std::sync::LazyLock;

use consilium_common::ids::Digest;
use consilium_common::limits::{DIMENSIONS_MAX, GRID_MAX, PARAMETERS_MAX, SITES_MAX, TENSORS_MAX};
use consilium_common::study::Preparation;
use consilium_common::study::preparation::preparation_bytes_len;
use consilium_common::tensor::file::{Places, from_safetensors, to_safetensors};
use consilium_common::tensor::flat::{decode_model, encode_model};
use consilium_common::tensor::layout::{Kind, Layout};

use super::{shown, study, text};

static LAYOUT: LazyLock<Layout> = LazyLock::new(|| {
    let spec = |name: &str, shape: &[u32]| (name.to_owned(), shape.to_vec(), Kind::Weight);
    Layout::new([spec("z.weight", &[2, 2]), spec("a.bias", &[2])]).unwrap()
});

/// A model is its vector's only encoding.
pub(super) fn model(bytes: &[u8]) {
    match decode_model(bytes, &LAYOUT) {
        // Bit by bit: a NaN is not equal to itself.
        Ok(vector) => assert_eq!(encode_model(&LAYOUT, &vector), bytes),
        Err(error) => shown(&error, bytes),
    }
}

/// A preparation has one encoding, and no sum that its sites could not have counted.
pub(super) fn preparation(bytes: &[u8]) {
    match Preparation::decode(bytes) {
        Ok(preparation) => {
            assert_eq!(preparation.encode(), bytes);
            assert_eq!(preparation_bytes_len(preparation.sums.len()), bytes.len() as u64);
            assert!((1..=SITES_MAX).contains(&(preparation.sites as usize)));
            let bound = i64::from(preparation.sites) * i64::from(GRID_MAX);
            assert!(preparation.sums.iter().all(|sum| (-bound..=bound).contains(sum)));
        }
        Err(error) => shown(&error, bytes),
    }
    if let Err(error) = Preparation::read(bytes, &study::preparing()) {
        shown(&error, bytes);
    }
}

/// A file that is accepted has a value for each parameter, and its head is accepted alone.
pub(super) fn safetensors(bytes: &[u8]) {
    match from_safetensors(bytes, &LAYOUT) {
        Ok(vector) => {
            let ours = to_safetensors(&LAYOUT, &vector, HashMap::<String, String>::new()).unwrap();
            let again = from_safetensors(&ours, &LAYOUT).unwrap();
            assert_eq!(encode_model(&LAYOUT, &again), encode_model(&LAYOUT, &vector));
        }
        Err(error) => shown(&error, bytes),
    }
    // As a worker's result is read: the head first, of a file as long as its tensors say.
    for total in [bytes.len() as u64, bytes.len() as u64 + 24, u64::MAX] {
        match Places::read(bytes, total, &LAYOUT) {
            Ok(places) => assert!(places.iter().all(|place| place <= total)),
            Err(error) => shown(&error, bytes),
        }
    }
}

/// Tensors lie one after another, within the limits, and are told apart by their text.
pub(super) fn layout(bytes: &[u8]) {
    let Some(text) = text(bytes) else {
        return;
    };
    let specs = text.lines().map(|line| {
        let (name, shape) = line.rsplit_once(' ').unwrap_or((line, ""));
        let frozen = name.starts_with('*');
        let kind = if frozen { Kind::Frozen } else { Kind::Weight };
        (name.to_owned(), shape.split('x').filter_map(|d| d.parse().ok()).collect(), kind)
    });
    let layout = match Layout::new(specs) {
        Ok(layout) => layout,
        Err(error) => return shown(&error, bytes),
    };
    assert!((1..=TENSORS_MAX).contains(&layout.tensors().len()) && !layout.is_empty());
    let mut end = 0;
    for tensor in layout.tensors() {
        assert_eq!(tensor.offset, end);
        assert!((1..=DIMENSIONS_MAX).contains(&tensor.shape.len()) && tensor.len > 0);
        end += tensor.len;
    }
    assert!(layout.len() == end && end as u64 <= PARAMETERS_MAX && layout.weights_len() <= end);
    assert_eq!(layout.describe().lines().count(), 1 + layout.tensors().len());
}

pub(super) fn models() -> Vec<Vec<u8>> {
    let good = encode_model(&LAYOUT, &[1.0, -2.5, f32::MIN_POSITIVE, 0.0, f32::NAN, 3.0]);
    let mut other = good.clone();
    if let Some(byte) = other.get_mut(20) {
        *byte ^= 1;
    }
    vec![good, other]
}

pub(super) fn preparations() -> Vec<Vec<u8>> {
    let terms = study::preparing().preparation_terms().unwrap();
    let (most, sums) = (i64::from(GRID_MAX), vec![7, -3, 0]);
    let good = Preparation { terms, sites: 2, sums };
    let other = Preparation { terms: Digest([1; 32]), ..good.clone() };
    let bound = Preparation { sums: vec![2 * most, -2 * most, 1], ..good };
    let over = Preparation { sites: 1, ..bound.clone() };
    let short = Preparation { sums: vec![7], ..good };
    [good, other, bound, over, short].map(|preparation| preparation.encode()).to_vec()
}

pub(super) fn safetensors_files() -> Vec<Vec<u8>> {
    let file = |metadata: HashMap<String, String>| {
        to_safetensors(&LAYOUT, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], metadata).unwrap()
    };
    let head = |json: &str| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes
    };
    let other_order = head(
        r#"{"a.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"z.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]}}"#,
    );
    let stranger = head(
        r#"{"a.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"z.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]},"x":{"dtype":"U8","shape":[4],"data_offsets":[24,28]}}"#,
    );
    let giant = head(
        r#"{"x":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}}"#,
    );
    let half = head(r#"{"a.bias":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#);
    let whole = |head: Vec<u8>, data: usize| [head, vec![0x3f; data]].concat();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    vec![
        file(HashMap::new()),
        file(metadata),
        whole(other_order, 24),
        whole(stranger, 28),
        giant,
        whole(half, 4),
    ]
}

pub(super) fn layouts() -> Vec<Vec<u8>> {
    [
        "a 2x3\n*mean 3\nb 4\n",
        "a 1\na 1\n",
        "a 0\n",
        "a 4294967295x4294967295x4294967295\n",
        "a b\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
