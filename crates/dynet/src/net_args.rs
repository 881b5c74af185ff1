//! Options that say which network is meant: a name of the zoo with its options, or a model file.

use std::path::Path;

use clap::{Args, ValueEnum};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{CoefActivation, Coefficients, DynamicOptions, Model, Net, Scope};
use dynet_train::ModelConfig;

use crate::fault::{Blame, Fault};

#[derive(Clone, Copy, ValueEnum)]
enum CoefficientsArg {
    /// One for each kernel and output channel.
    Channel,
    /// One for each kernel.
    Kernel,
}

#[derive(Clone, Copy, ValueEnum)]
enum ActivationArg {
    /// Softmax over the K kernels.
    Softmax,
    /// Each coefficient alone in (0, 1).
    Sigmoid,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScopeArg {
    /// One predictor for each convolution.
    Layer,
    /// One predictor for each block.
    Block,
}

/// Options of a network's design.
#[derive(Args)]
pub(crate) struct DesignArgs {
    /// Make the net dynamic with K fixed kernels per output channel (of a dy_ net: its K).
    #[arg(long, value_name = "K", help_heading = "Network")]
    pub dynamic: Option<usize>,
    /// Which output channels share a coefficient.
    #[arg(long, value_enum, help_heading = "Network")]
    coefficients: Option<CoefficientsArg>,
    /// What turns a predictor's outputs into coefficients.
    #[arg(long, value_enum, help_heading = "Network")]
    activation: Option<ActivationArg>,
    /// Divisor of the outputs before softmax.
    #[arg(long, value_name = "T", help_heading = "Network")]
    temperature: Option<f32>,
    /// What one predictor feeds.
    #[arg(long, value_enum, help_heading = "Network")]
    scope: Option<ScopeArg>,
    /// Hidden units of a predictor: its input channels divided by this.
    #[arg(long, value_name = "N", help_heading = "Network")]
    squeeze: Option<usize>,
    /// Probability that a predictor drops a feature in training.
    #[arg(long, value_name = "P", help_heading = "Network")]
    dropout: Option<f32>,
    /// Multiplier of all channel counts.
    #[arg(long, value_name = "W", help_heading = "Network")]
    width: Option<f64>,
    /// Side of the images in pixels, or height and width as HxW.
    #[arg(long, value_name = "S", value_parser = parse_size, help_heading = "Network")]
    pub size: Option<[usize; 2]>,
    /// A stem for small images: stride 1, no max pooling.
    #[arg(long, help_heading = "Network")]
    small_stem: bool,
}

/// Options of a network of the zoo: its design, and what data would decide.
#[derive(Args)]
pub(crate) struct NetArgs {
    #[command(flatten)]
    pub design: DesignArgs,
    /// Number of classes.
    #[arg(long, value_name = "N", help_heading = "Network")]
    classes: Option<usize>,
    /// Channels of the images.
    #[arg(long, value_name = "C", help_heading = "Network")]
    channels: Option<usize>,
}

/// `224` or `360x480`.
pub(crate) fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let side = |s: &str| s.parse().map_err(|_| format!("expected pixels, as 224 or 360x480, got {text}"));
    match text.split_once('x') {
        Some((h, w)) => Ok([side(h)?, side(w)?]),
        None => Ok([side(text)?; 2]),
    }
}

impl DesignArgs {
    /// Whether any option was given.
    pub(crate) fn is_given(&self) -> bool {
        self.dynamic.is_some()
            || self.has_detail()
            || self.width.is_some()
            || self.size.is_some()
            || self.small_stem
    }

    /// Whether any detail of dynamic convolutions was given.
    fn has_detail(&self) -> bool {
        self.coefficients.is_some()
            || self.activation.is_some()
            || self.temperature.is_some()
            || self.scope.is_some()
            || self.squeeze.is_some()
            || self.dropout.is_some()
    }

    /// Puts what was given over the net of a recipe.
    ///
    /// # Errors
    /// An unknown net, or options that contradict each other.
    pub(crate) fn apply(&self, model: &mut ModelConfig) -> Result<(), Fault> {
        let own = zoo::find(&model.net).input()?.dynamic();
        model.dynamic = self.dynamic_options(model.dynamic.or(own))?.or(model.dynamic);
        model.width = self.width.unwrap_or(model.width);
        model.size = self.size.or(model.size);
        model.small_stem = self.small_stem.then_some(true).or(model.small_stem);
        Ok(())
    }

    /// The options of the dynamic convolutions, if any was given.
    fn dynamic_options(&self, own: Option<DynamicOptions>) -> Result<Option<DynamicOptions>, Fault> {
        if self.dynamic.is_none() && !self.has_detail() {
            return Ok(None);
        }
        if self.dynamic.is_none() && own.is_none() {
            return Err(Fault::Input("options of dynamic convolutions need --dynamic K".into()));
        }
        let mut options = own.unwrap_or_default();
        options.experts = self.dynamic.unwrap_or(options.experts);
        if let Some(c) = self.coefficients {
            options.coefficients = match c {
                CoefficientsArg::Channel => Coefficients::Channel,
                CoefficientsArg::Kernel => Coefficients::Kernel,
            };
        }
        match (self.activation, self.temperature) {
            (Some(ActivationArg::Sigmoid), Some(_)) => {
                return Err(Fault::Input("--temperature: sigmoid has none".into()));
            }
            (Some(ActivationArg::Sigmoid), None) => options.activation = CoefActivation::Sigmoid,
            (Some(ActivationArg::Softmax), t) => {
                options.activation = CoefActivation::Softmax { temperature: t.unwrap_or(1.0) };
            }
            (None, Some(temperature)) => options.activation = CoefActivation::Softmax { temperature },
            (None, None) => {}
        }
        if let Some(s) = self.scope {
            options.scope = match s {
                ScopeArg::Layer => Scope::Layer,
                ScopeArg::Block => Scope::Block,
            };
        }
        options.squeeze = self.squeeze.or(options.squeeze);
        options.dropout = self.dropout.unwrap_or(options.dropout);
        Ok(Some(options))
    }
}

impl NetArgs {
    /// The zoo's options with what was given on the command line.
    fn zoo_options(&self, own: Option<DynamicOptions>) -> Result<ZooOptions, Fault> {
        let standard = ZooOptions::default();
        Ok(ZooOptions {
            width: self.design.width.unwrap_or(standard.width),
            classes: self.classes.unwrap_or(standard.classes),
            channels: self.channels.unwrap_or(standard.channels),
            size: self.design.size.unwrap_or(standard.size),
            small_stem: self.design.small_stem,
            dynamic: self.design.dynamic_options(own)?,
        })
    }

    /// The network of the zoo with this name.
    ///
    /// # Errors
    /// An unknown name or an option that the net cannot take.
    pub(crate) fn build(&self, name: &str) -> Result<Net, Fault> {
        let own = zoo::find(name).input()?.dynamic();
        zoo::build(name, &self.zoo_options(own)?).input()
    }

    /// A network of the zoo, or the one in a model file when `name` is the path of a file.
    ///
    /// # Errors
    /// As [`NetArgs::build`]; a file that is no model.
    pub(crate) fn net_or_model(&self, name: &str) -> Result<NetOrModel, Fault> {
        if looks_like_file(name) {
            let model = Model::read(Path::new(name)).input()?;
            return Ok(NetOrModel::Model(Box::new(model)));
        }
        Ok(NetOrModel::Net(self.build(name)?))
    }
}

/// What a NET|MODEL argument names.
pub(crate) enum NetOrModel {
    Net(Net),
    Model(Box<Model>),
}

impl NetOrModel {
    /// The net alone.
    pub(crate) fn into_net(self) -> Net {
        match self {
            Self::Net(net) => net,
            Self::Model(model) => model.net,
        }
    }
}

/// Whether a NET|MODEL argument means a file: names of the zoo hold neither dots nor slashes.
pub(crate) fn looks_like_file(name: &str) -> bool {
    name.contains(['.', '/']) || Path::new(name).is_file()
}
