//! A net as steps that run on whole batches: activations join what stands before them.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::flex::FlexTensor;
use dynet_kernels::backward::Window;
use dynet_kernels::{Activation, Geometry};
use dynet_net::{Activation as NetActivation, Conv2d, Net, Op, PaddingMode, Predictor};

/// One step. Values are named by the node that has them in the net.
#[derive(Debug)]
pub(super) struct Step {
    /// The node whose parameters it uses.
    pub(super) node: usize,
    /// Where the result goes: the node itself, or the activation behind it.
    pub(super) output: usize,
    /// The first inputs that are maps.
    pub(super) inputs: Vec<usize>,
    pub(super) act: Activation,
    pub(super) op: Action,
    /// First parameter, and how many.
    pub(super) params: [usize; 2],
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Action {
    Conv { conv: Conv2d, geometry: Geometry, coefs: Option<(usize, usize)> },
    Predictor { predictor: Predictor },
    Norm { eps: f64 },
    Activate,
    MaxPool { geometry: Geometry },
    GlobalAverage,
    Add,
    Scale,
    Slice { start: usize },
    Concat,
    Shuffle { groups: usize },
    Linear,
    Dropout,
}

/// Channels and pixels of a node's map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) c: usize,
    pub(super) pixels: usize,
}

/// A net that these operations can train.
#[derive(Debug)]
pub(crate) struct Graph {
    /// Channels, height and width of an image.
    pub(super) image: [usize; 3],
    pub(super) steps: Vec<Step>,
    pub(super) sizes: Vec<Size>,
    /// Of each node, whether backward reads its map.
    pub(super) kept: Vec<bool>,
    /// Of each node, the last step that reads its map.
    pub(super) last_reader: Vec<usize>,
    pub(super) output: usize,
    pub(super) params: usize,
    windows: Mutex<Vec<Arc<Window>>>,
    /// The gradient of each parameter in the last step: its memory, once nobody else holds it, serves the next one.
    pub(super) gradients: Mutex<Vec<Option<FlexTensor>>>,
}

impl Graph {
    /// The parameters that backward updates where it may: weights of dense convolutions and of fully connected layers.
    /// Kernels in groups are small, and updated behind the pass.
    pub(super) fn updated(&self) -> Vec<usize> {
        let of_step = |step: &Step| match (&step.op, step.params) {
            (Action::Conv { conv, .. }, [first, _]) if conv.groups == 1 => vec![first],
            (Action::Linear, [first, _]) => vec![first],
            (Action::Predictor { .. }, [first, count]) => (first..first + count).step_by(2).collect(),
            _ => Vec::new(),
        };
        self.steps.iter().flat_map(of_step).collect()
    }

    /// `None` for a net with something that only Burn's own operations do: borders other than zeros, padding that is
    /// wider than the kernel.
    pub(crate) fn new(net: &Net) -> Option<Self> {
        let nodes = net.nodes();
        let sizes: Vec<Size> =
            nodes.iter().map(|n| Size { c: n.shape.c, pixels: n.shape.pixels() }).collect();
        let mut readers = vec![Vec::new(); nodes.len()];
        for (i, node) in nodes.iter().enumerate() {
            node.inputs.iter().for_each(|input| readers[input.index()].push(i));
        }
        let (mut steps, mut joined, mut params) = (Vec::new(), vec![false; nodes.len()], 0);
        for (id, node) in net.ids().zip(nodes) {
            let i = id.index();
            let count = net.params_of(id).iter().filter(|spec| spec.is_trainable()).count();
            let inputs: Vec<usize> = node.inputs.iter().map(|id| id.index()).collect();
            if joined[i] || matches!(node.op, Op::Input) {
                continue;
            }
            let mut step = Step {
                node: i,
                output: i,
                inputs,
                act: Activation::None,
                op: action(net, i)?,
                params: [params, count],
            };
            params += count;
            if let Op::Activation(act) = node.op {
                step.act = activation(act);
            }
            // An activation that alone reads a norm or a sum is done on the way.
            if let [next] = readers[i][..]
                && let Op::Activation(act) = nodes[next].op
                && (matches!(step.op, Action::Norm { .. }) || (matches!(step.op, Action::Add) && clamps(act)))
            {
                (step.act, step.output, joined[next]) = (activation(act), next, true);
            }
            step.inputs.truncate(if let Action::Conv { .. } = step.op { 1 } else { usize::MAX });
            steps.push(step);
        }
        let mut graph = Self {
            image: net.input().into(),
            kept: vec![false; nodes.len()],
            last_reader: vec![0; nodes.len()],
            output: steps.last()?.output,
            steps,
            sizes,
            params,
            windows: Mutex::default(),
            gradients: Mutex::default(),
        };
        graph.lifetimes();
        Some(graph)
    }

    /// Finds out which maps backward reads, and when the others are read last.
    fn lifetimes(&mut self) {
        for (at, step) in self.steps.iter().enumerate() {
            let reads_inputs = match step.op {
                Action::Conv { .. }
                | Action::Norm { .. }
                | Action::Activate
                | Action::MaxPool { .. }
                | Action::Scale
                | Action::Linear => true,
                Action::Predictor { .. }
                | Action::GlobalAverage
                | Action::Add
                | Action::Slice { .. }
                | Action::Concat
                | Action::Shuffle { .. }
                | Action::Dropout => false,
            };
            for input in &step.inputs {
                self.kept[*input] |= reads_inputs;
                self.last_reader[*input] = at;
            }
            if matches!(step.op, Action::Add) && step.act != Activation::None {
                self.kept[step.output] = true;
            }
        }
        self.kept[self.output] = true;
    }

    /// The window of a batch, made once.
    pub(super) fn window(&self, geometry: &Geometry, images: usize) -> Arc<Window> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() > 4 * self.steps.len() {
            windows.clear();
        }
        let own = windows.iter().find(|w| w.images() == images && w.geometry() == geometry);
        if let Some(window) = own {
            return Arc::clone(window);
        }
        let window = Arc::new(Window::new(geometry, images));
        windows.push(Arc::clone(&window));
        window
    }
}

fn activation(act: NetActivation) -> Activation {
    match act {
        NetActivation::Relu => Activation::Relu,
        NetActivation::Relu6 => Activation::Relu6,
        NetActivation::Hardswish => Activation::Hardswish,
        NetActivation::Hardsigmoid => Activation::Hardsigmoid,
        NetActivation::Sigmoid => Activation::Sigmoid,
    }
}

/// Whether the gradient can be told from the result.
fn clamps(act: NetActivation) -> bool {
    matches!(act, NetActivation::Relu | NetActivation::Relu6)
}

/// A window that reads one pixel: fully connected layers.
pub(super) fn point() -> Geometry {
    Geometry::same([1, 1], 1, 1)
}

fn action(net: &Net, i: usize) -> Option<Action> {
    let node = &net.nodes()[i];
    let input = node.inputs.first().map(|id| net.node(*id).shape)?;
    Some(match &node.op {
        Op::Conv2d(conv) => {
            let geometry = Geometry {
                input: [input.h, input.w],
                kernel: conv.kernel,
                stride: conv.stride,
                padding: conv.padding,
                dilation: conv.dilation,
            };
            let narrow = (0..2).all(|d| conv.padding[d] <= conv.dilation[d] * (conv.kernel[d] - 1));
            if !narrow || (conv.padding_mode != PaddingMode::Zeros && conv.padding != [0, 0]) {
                return None;
            }
            let coefs = conv.dynamic.map(|dynamic| (node.inputs[1].index(), dynamic.head));
            Action::Conv { conv: conv.clone(), geometry, coefs }
        }
        Op::Predictor(predictor) => Action::Predictor { predictor: predictor.clone() },
        Op::BatchNorm { eps, .. } => Action::Norm { eps: eps.to_string().parse().unwrap_or(f64::from(*eps)) },
        Op::Activation(_) => Action::Activate,
        Op::MaxPool { kernel, stride, padding } => Action::MaxPool {
            geometry: Geometry {
                input: [input.h, input.w],
                kernel: [*kernel; 2],
                stride: [*stride; 2],
                padding: [*padding; 2],
                dilation: [1, 1],
            },
        },
        Op::GlobalAvgPool => Action::GlobalAverage,
        Op::Add => Action::Add,
        Op::Scale => Action::Scale,
        Op::Slice { start, .. } => Action::Slice { start: *start },
        Op::Concat => Action::Concat,
        Op::Shuffle { groups } => Action::Shuffle { groups: *groups },
        Op::Linear { .. } => Action::Linear,
        Op::Dropout { .. } => Action::Dropout,
        Op::Input => return None,
    })
}
