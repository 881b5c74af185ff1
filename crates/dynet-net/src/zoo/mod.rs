//! The nets that people know, by name: torchvision's, and those of the DyNet paper.
//!
//! Each family is one file: an architecture table of typed rows, and the function that turns a row into
//! nodes. Static nets carry torchvision's parameter names in torchvision's order. The nets named `dy_*` are
//! dynamic by themselves; any other becomes so with [`ZooOptions::dynamic`].

mod dy_mobile;
mod dy_shuffle;
mod mobilenet_v2;
mod mobilenet_v3;
mod parts;
mod resnet;
mod shufflenet_v2;

use serde::{Deserialize, Serialize};

use crate::builder::NetError;
use crate::dynamic::DynamicOptions;
use crate::net::Net;
use crate::op::Shape;
use crate::shape::MAX_DIM;

/// Largest width multiplier.
pub const MAX_WIDTH: f64 = 64.0;

/// What every net of the zoo can be asked for. The default is the published net for ImageNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ZooOptions {
    /// Factor on the number of channels, which is then rounded as the family does it.
    pub width: f64,
    /// Number of logits.
    pub classes: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Height and width of an image in pixels.
    pub size: [usize; 2],
    /// A stem for small images, which leaves out the first factor of 4 by which the net shrinks them: stride
    /// 1 and no max pooling (ResNets: a 3 x 3 kernel too; MobileNets, which do not pool: stride 1 in the
    /// first two places that have stride 2).
    pub small_stem: bool,
    /// How the net is made dynamic. `None`: a static net stays static, and a net of the paper follows its own
    /// design, [`ModelInfo::dynamic`]. `Some` takes the place of that design; nets of the paper stay static
    /// outside their blocks whatever it says.
    pub dynamic: Option<DynamicOptions>,
}

impl Default for ZooOptions {
    fn default() -> Self {
        Self { width: 1.0, classes: 1000, channels: 3, size: [224, 224], small_stem: false, dynamic: None }
    }
}

impl ZooOptions {
    /// Refuses what no net can take, before anything is built.
    fn check(&self) -> Result<(), ZooError> {
        let refuse = |option, expected: String, got: String| Err(ZooError::Option { option, expected, got });
        if !(self.width > 0.0 && self.width <= MAX_WIDTH) {
            return refuse("width", format!("a number above 0, at most {MAX_WIDTH}"), self.width.to_string());
        }
        let sizes = [
            ("classes", self.classes),
            ("channels", self.channels),
            ("size (height)", self.size[0]),
            ("size (width)", self.size[1]),
        ];
        match sizes.into_iter().find(|(_, n)| !(1..=MAX_DIM).contains(n)) {
            Some((option, got)) => refuse(option, format!("1 to {MAX_DIM}"), got.to_string()),
            None => Ok(()),
        }
    }

    fn image(&self) -> Shape {
        Shape::new(self.channels, self.size[0], self.size[1])
    }
}

/// Why a net of the zoo cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ZooError {
    /// No net has this name.
    #[error("no net is named {name}; the nearest is {nearest}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The known name nearest to it.
        nearest: &'static str,
    },
    /// An option that no net can take.
    #[error("{option}: expected {expected}, got {got}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What would be accepted.
        expected: String,
        /// What was found.
        got: String,
    },
    /// Options that this net cannot take.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// One entry of the zoo.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ModelInfo {
    /// Name, as [`build`] takes it.
    pub name: &'static str,
    /// Nets of one family share a file and a block design.
    pub family: &'static str,
    /// What it is, in one line.
    pub description: &'static str,
    /// Whether it is dynamic by itself.
    pub is_dynamic: bool,
    /// Where its design comes from.
    pub source: &'static str,
    /// Builds it static, with what must stay static marked.
    #[serde(skip)]
    build: fn(&str, &ZooOptions) -> Result<Net, NetError>,
    /// Its own hidden layer in the predictors: [`DynamicOptions::squeeze`].
    #[serde(skip)]
    squeeze: Option<usize>,
}

impl ModelInfo {
    /// The net's own dynamic design; `None` for a static net.
    pub fn dynamic(&self) -> Option<DynamicOptions> {
        self.is_dynamic.then(|| DynamicOptions { squeeze: self.squeeze, ..DynamicOptions::paper() })
    }
}

const TORCHVISION: &str = "torchvision";
const PAPER: &str = "DyNet, ICLR 2020 submission, channels reconstructed from its FLOPs";

const fn torchvision(
    name: &'static str,
    family: &'static str,
    description: &'static str,
    build: fn(&str, &ZooOptions) -> Result<Net, NetError>,
) -> ModelInfo {
    ModelInfo { name, family, description, is_dynamic: false, source: TORCHVISION, build, squeeze: None }
}

const fn dynamic(
    name: &'static str,
    family: &'static str,
    description: &'static str,
    source: &'static str,
    build: fn(&str, &ZooOptions) -> Result<Net, NetError>,
) -> ModelInfo {
    ModelInfo { name, family, description, is_dynamic: true, source, build, squeeze: None }
}

/// A ResNet's predictors have a hidden layer of a quarter of the channels.
const fn squeezed(info: ModelInfo) -> ModelInfo {
    ModelInfo { squeeze: Some(4), ..info }
}

static MODELS: [ModelInfo; 15] = [
    torchvision("resnet18", "resnet", "ResNet of 8 basic blocks", |n, o| resnet::RESNET18.build(n, o)),
    torchvision("resnet50", "resnet", "ResNet of 16 bottlenecks", |n, o| resnet::RESNET50.build(n, o)),
    torchvision("mobilenet_v2", "mobilenet_v2", "inverted residuals", mobilenet_v2::build),
    torchvision(
        "mobilenet_v3_small",
        "mobilenet_v3",
        "inverted residuals with squeeze-and-excitation",
        |n, o| mobilenet_v3::SMALL.build(n, o),
    ),
    torchvision("mobilenet_v3_large", "mobilenet_v3", "the same, larger", |n, o| {
        mobilenet_v3::LARGE.build(n, o)
    }),
    torchvision("shufflenet_v2_x1_0", "shufflenet_v2", "channel split and shuffle", |n, o| {
        shufflenet_v2::X1_0.build(n, o)
    }),
    torchvision("shufflenet_v2_x1_5", "shufflenet_v2", "the same, 1.5 times as wide", |n, o| {
        shufflenet_v2::X1_5.build(n, o)
    }),
    squeezed(dynamic(
        "dy_resnet18",
        "resnet",
        "ResNet18 with half of the channels in every stage",
        PAPER,
        |n, o| resnet::DY_RESNET18.build(n, o),
    )),
    squeezed(dynamic(
        "dy_resnet50",
        "resnet",
        "ResNet50 with half of the channels in every stage",
        PAPER,
        |n, o| resnet::DY_RESNET50.build(n, o),
    )),
    dynamic("dy_mobile", "dy_mobile", "MobileNetV2 without expansion", PAPER, dy_mobile::build),
    dynamic(
        "dy_shuffle_x1_0",
        "dy_shuffle",
        "ShuffleNetV2 split 3 : 1, its right branch dynamic",
        PAPER,
        |n, o| dy_shuffle::build(n, o, &shufflenet_v2::X1_0),
    ),
    dynamic("dy_shuffle_x1_5", "dy_shuffle", "the same, 1.5 times as wide", PAPER, |n, o| {
        dy_shuffle::build(n, o, &shufflenet_v2::X1_5)
    }),
    dynamic(
        "dy_mobilenet_v2",
        "mobilenet_v2",
        "MobileNetV2's own blocks, dynamic",
        "DyNet, ICLR 2020 submission, correlation study",
        mobilenet_v2::build,
    ),
    dynamic(
        "dy_mobilenet_v3_small",
        "mobilenet_v3",
        "MobileNetV3 small's own blocks, dynamic; squeeze-and-excitation kept",
        "design of this project: the paper (arXiv 2004.10694) names the net without its blocks",
        |n, o| mobilenet_v3::SMALL.build(n, o),
    ),
    dynamic(
        "dy_mobilenet_v3_large",
        "mobilenet_v3",
        "MobileNetV3 large's own blocks, dynamic; squeeze-and-excitation kept",
        "design of this project: the paper (arXiv 2004.10694) names the net without its blocks",
        |n, o| mobilenet_v3::LARGE.build(n, o),
    ),
];

/// All nets that [`build`] knows, static ones first.
pub fn models() -> &'static [ModelInfo] {
    &MODELS
}

/// Looks a net up by its name.
///
/// # Errors
/// An unknown name, with the nearest known one.
pub fn find(name: &str) -> Result<&'static ModelInfo, ZooError> {
    if let Some(info) = MODELS.iter().find(|info| info.name == name) {
        return Ok(info);
    }
    let similarity = |info: &&ModelInfo| strsim::jaro_winkler(name, info.name);
    let nearest = MODELS.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let nearest = nearest.map_or(MODELS[0].name, |info| info.name);
    Err(ZooError::Unknown { name: name.to_owned(), nearest })
}

/// Builds a net by its name.
///
/// # Errors
/// An unknown name, an option out of range, or sizes that a layer of this net cannot take.
pub fn build(name: &str, options: &ZooOptions) -> Result<Net, ZooError> {
    let info = find(name)?;
    options.check()?;
    let net = (info.build)(info.name, options)?;
    let dynamic = match (info.dynamic(), options.dynamic) {
        (None, asked) => asked,
        (Some(own), None) => Some(own),
        (Some(own), Some(asked)) => Some(DynamicOptions { outside_blocks: own.outside_blocks, ..asked }),
    };
    Ok(match dynamic {
        None => net,
        Some(dynamic) => net.to_dynamic(&dynamic)?,
    })
}
