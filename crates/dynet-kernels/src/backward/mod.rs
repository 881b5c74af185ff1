//! Training: whole batches forward and backward, by a team of threads.
//!
//! Maps are channels last, `[images][pixels][channels]`, without gaps; weights lie as a framework keeps them,
//! `[experts][c_out][c_in / groups][kh * kw]`, since an update changes them all: they are packed again a panel at a
//! time, just before use. Gradients of weights leave in the same order.
//!
//! Every value is computed by one part of one job, and how a job is cut into parts depends on sizes alone, so results
//! are the same bits for any number of threads.

mod by_pixel;
mod dense;
mod dense_fused;
mod dense_weights;
mod depthwise_weights;
mod dots;
mod few_product;
mod few_rows;
mod few_tile;
mod few_weights;
mod fuse;
mod fused_weights;
mod goal;
mod grouped;
mod maps;
mod mix;
mod norm;
mod pieces;
mod pointwise;
mod pool;
mod team;
mod transpose;
mod update;
mod weight_tile;
mod window;

pub use dense::Dense;
pub use few_product::FUSED_EXPERTS;
pub use goal::Goal;
pub use grouped::Grouped;
pub use maps::{add_columns, from_planes, put_columns, shuffle_columns, to_planes};
pub use mix::{mix, mix_backward, softmax, softmax_backward};
pub use norm::{NormState, norm, norm_backward};
pub use pointwise::{activate, activate_backward, add, add_into, column_sums, scale, scale_backward};
pub use pool::{global_average, global_average_backward, max_pool, max_pool_backward};
pub use team::Team;
pub use update::{AdamW, Sgd, Update, average, square_sum};
pub use window::Window;
