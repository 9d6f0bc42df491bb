//! SCAFFOLD's two variates on their way: c from the cache, the site's own from its local state, if it is
//! the one that the plan names.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use consilium_common::ids::Round;
use consilium_common::study::Study;
use consilium_common::tensor::layout::Layout;
use consilium_common::tensor::state::state_bytes_len;
use consilium_common::wire::messages::{Plan, TaskKind};
use consilium_common::wire::reject::Code;

use super::local::is_lost;
use super::shared::Shared;
use super::task::site_fault;
use crate::session::Fault;
use crate::state::local as files;
use crate::update::ReadAt;
use crate::update::control::{Variates, own_bytes_len};

/// Both variates as files; none stands for zero.
#[derive(Debug, Default)]
pub(super) struct Files {
    common: Option<File>,
    own: Option<Part>,
}

/// A file from some byte on, so many bytes long.
#[derive(Debug)]
struct Part {
    file: File,
    first: u64,
    bytes: u64,
}

impl ReadAt for Part {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, self.first + offset)
    }
}

impl Files {
    /// What the plan's training is corrected by, verified. Blocks.
    ///
    /// # Errors
    /// [`Code::ControlLost`] if the variate that the plan names is not at this site; or a file cannot be
    /// read.
    pub(super) fn open(shared: &Shared, plan: &Plan, layout: &Layout) -> Result<Self, Fault> {
        let Some(control) = plan.control else {
            return Ok(Self::default());
        };
        let common = match control.common {
            None => None,
            Some(blob) if shared.cache.holds(blob.digest).map_err(site_fault)? => {
                Some(shared.cache.blobs().open_file(blob.digest).map_err(site_fault)?)
            }
            Some(_) => {
                let detail = "the coordinator's control variate is no longer in the cache";
                return Err(Fault::passing(Code::SiteFault, detail));
            }
        };
        let own = control.own.map(|round| own(shared, plan, round, own_bytes_len(layout)));
        Ok(Self { common, own: own.transpose()? })
    }

    pub(super) fn variates(&self) -> Variates<'_> {
        Variates {
            common: self.common.as_ref().map(|file| file as &dyn ReadAt),
            own: self.own.as_ref().map(|part| part as &dyn ReadAt),
        }
    }
}

/// The variate that this site made in `round`.
fn own(shared: &Shared, plan: &Plan, round: Round, bytes: u64) -> Result<Part, Fault> {
    let study = &plan.study;
    let lost = |why: &str| {
        let detail = format!(
            "this site's control variate of round {round} of study {study} is lost: {why}; all sites \
             begin with new ones"
        );
        Fault::lasting(Code::ControlLost, detail)
    };
    let state = shared.state();
    let path = state.local.path_of(study);
    let Some(current) = state.local.get(study).cloned() else {
        return Err(lost("there is none"));
    };
    drop(state);
    if current.round != round || current.control.map(|control| control.bytes) != Some(bytes) {
        return Err(lost("the one that is here is another"));
    }
    match files::open_control(&path, &current) {
        Ok((file, first)) => Ok(Part { file, first, bytes }),
        Err(why) if is_lost(&path, &why) => {
            shared.state().local.set_aside(study, &why).map_err(site_fault)?;
            Err(lost(&why.to_string()))
        }
        Err(error) => Err(site_fault(error)),
    }
}

/// A plan names variates where the study's strategy corrects a training by them, of the length that they
/// have.
pub(super) fn fits(plan: &Plan, study: &Study, layout: &Layout) -> Result<(), Fault> {
    let corrects = study.aggregation.control_grid().is_some() && plan.task == TaskKind::Train;
    let common = plan.control.and_then(|control| control.common);
    let need = state_bytes_len(layout, 1);
    if plan.control.is_some() == corrects && common.is_none_or(|blob| blob.bytes == need) {
        return Ok(());
    }
    let detail = format!("the plan's control variates are {:?}, {need} bytes needed", plan.control);
    Err(Fault::lasting(Code::WrongShape, detail))
}
