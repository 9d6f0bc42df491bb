//! `consilium-worker` as the daemon sees it: over a socket, on real files. One program, so that it
//! is linked once.

mod documents;
mod groups;
mod images;
mod labels;
mod listed;
mod patients;
mod pictures;
mod predict;
mod prints;
mod ratings;
mod series;
mod sources;
mod support;
mod tables;
mod tensors;
mod text;
