//! A net in training, written in f64 as plainly as can be: for each value a loop over what it is made of.

use std::collections::BTreeMap;

use dynet_net::{Activation, CoefActivation, Conv2d, Head, Net, Node, Op, Predictor, Shape};

/// Every trainable tensor of a net by name.
pub(crate) type Params = BTreeMap<String, Vec<f64>>;

/// A map of a batch, `[n, c, h, w]`.
#[derive(Clone)]
struct Map {
    shape: Shape,
    values: Vec<f64>,
}

impl Map {
    fn zeros(n: usize, shape: Shape) -> Self {
        Self { shape, values: vec![0.0; n * shape.len()] }
    }

    fn at(&self, n: usize, c: usize, y: usize, x: usize) -> f64 {
        let Shape { c: channels, h, w } = self.shape;
        self.values[((n * channels + c) * h + y) * w + x]
    }

    /// Of the same shape, each value by a function of image, channel, row and column.
    fn filled(n: usize, shape: Shape, value: impl Fn(usize, usize, usize, usize) -> f64) -> Self {
        let mut map = Self::zeros(n, shape);
        for (i, out) in map.values.iter_mut().enumerate() {
            let (x, i) = (i % shape.w, i / shape.w);
            let (y, i) = (i % shape.h, i / shape.h);
            *out = value(i / shape.c, i % shape.c, y, x);
        }
        map
    }

    fn mean(&self, n: usize, c: usize) -> f64 {
        let pixels = self.shape.pixels();
        self.values[(n * self.shape.c + c) * pixels..][..pixels].iter().sum::<f64>() / pixels as f64
    }
}

/// Mean cross entropy of the net's logits, where image `i` belongs to class `labels[i]`.
pub(crate) fn loss(net: &Net, params: &Params, images: &[f64], labels: &[usize]) -> f64 {
    let n = labels.len();
    let mut maps: Vec<Map> = Vec::new();
    let mut coefs: Vec<Vec<Vec<f64>>> = Vec::new();
    for node in net.nodes() {
        let own = |name: &str| &params[&format!("{}.{name}", node.name)][..];
        let inputs: Vec<&Map> = node.inputs.iter().map(|id| &maps[id.index()]).collect();
        let (mut map, mut heads) = (Map::zeros(n, node.shape), Vec::new());
        match &node.op {
            Op::Input => map.values.copy_from_slice(images),
            Op::Predictor(predictor) => heads = predict(predictor, inputs[0], n, own),
            Op::Conv2d(spec) => {
                let coefs = spec.dynamic.map(|d| (&coefs[node.inputs[1].index()][d.head][..], d.experts));
                let bias = spec.bias.then(|| own("bias"));
                map = convolve(spec, inputs[0], coefs, own("weight"), bias, node, n);
            }
            Op::BatchNorm { eps, .. } => {
                map = normalise(inputs[0], f64::from(*eps), own("weight"), own("bias"), n);
            }
            Op::Linear { .. } => map.values = linear(&inputs[0].values, own("weight"), own("bias"), n),
            _ => map = plain(node, &inputs, n),
        }
        maps.push(map);
        coefs.push(heads);
    }
    let classes = net.classes();
    let logits = &maps[net.output().index()].values;
    let own = logits.chunks(classes).zip(labels).map(|(row, label)| {
        let sum: f64 = row.iter().map(|v| v.exp()).sum();
        sum.ln() - row[*label]
    });
    own.sum::<f64>() / n as f64
}

/// `x W' + b`.
fn linear(x: &[f64], weight: &[f64], bias: &[f64], n: usize) -> Vec<f64> {
    let row = |x: &[f64], o: usize| {
        let weights = &weight[o * x.len()..][..x.len()];
        x.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>() + bias[o]
    };
    x.chunks(x.len() / n).flat_map(|x| (0..bias.len()).map(|o| row(x, o)).collect::<Vec<_>>()).collect()
}

/// Coefficients `[n, experts, channels]` of each head.
fn predict<'a>(predictor: &Predictor, x: &Map, n: usize, own: impl Fn(&str) -> &'a [f64]) -> Vec<Vec<f64>> {
    let mut units: Vec<f64> =
        (0..n).flat_map(|i| (0..x.shape.c).map(|c| x.mean(i, c)).collect::<Vec<_>>()).collect();
    let scores = if predictor.hidden.is_some() {
        units = linear(&units, own("fc1.weight"), own("fc1.bias"), n);
        units.iter_mut().for_each(|u| *u = u.max(0.0));
        linear(&units, own("fc2.weight"), own("fc2.bias"), n)
    } else {
        linear(&units, own("fc.weight"), own("fc.bias"), n)
    };
    let total = predictor.coefficients();
    let head = |(index, head): (usize, &Head)| {
        let start = predictor.head_offset(index);
        let rows = scores.chunks(total).map(|row| &row[start..start + head.len()]);
        rows.flat_map(|row| coefficients(predictor.activation, *head, row)).collect()
    };
    predictor.heads.iter().enumerate().map(head).collect()
}

fn coefficients(activation: CoefActivation, head: Head, scores: &[f64]) -> Vec<f64> {
    match activation {
        CoefActivation::Sigmoid => scores.iter().map(|s| 1.0 / (1.0 + (-s).exp())).collect(),
        CoefActivation::Softmax { temperature } => {
            let exps: Vec<f64> = scores.iter().map(|s| (s / f64::from(temperature)).exp()).collect();
            let sum = |c: usize| (0..head.experts).map(|k| exps[k * head.channels + c]).sum::<f64>();
            exps.iter().enumerate().map(|(i, e)| e / sum(i % head.channels)).collect()
        }
    }
}

/// Eq. 1, its left side: for each image the fused kernel, then the convolution.
fn convolve(
    spec: &Conv2d,
    x: &Map,
    coefs: Option<(&[f64], usize)>,
    weight: &[f64],
    bias: Option<&[f64]>,
    node: &Node,
    n: usize,
) -> Map {
    let (depth, [kh, kw]) = (spec.c_in / spec.groups, spec.kernel);
    let len = spec.kernel_len();
    let fused = |image: usize| -> Vec<f64> {
        let Some((coefs, experts)) = coefs else { return weight.to_vec() };
        let shared = coefs.len() / n / experts;
        let value = |i: usize| {
            let channel = if shared == 1 { 0 } else { i / spec.fan_in() };
            let eta = |k: usize| coefs[(image * experts + k) * shared + channel];
            (0..experts).map(|k| eta(k) * weight[k * len + i]).sum()
        };
        (0..len).map(value).collect()
    };
    let kernels: Vec<Vec<f64>> = (0..n).map(fused).collect();
    Map::filled(n, node.shape, |image, c, y, x0| {
        let first = c / (spec.c_out / spec.groups) * depth;
        let mut sum = bias.map_or(0.0, |bias| bias[c]);
        for (tap, w) in kernels[image][c * spec.fan_in()..][..spec.fan_in()].iter().enumerate() {
            let (d, i, j) = (tap / (kh * kw), tap / kw % kh, tap % kw);
            let row = (y * spec.stride[0] + i * spec.dilation[0]).wrapping_sub(spec.padding[0]);
            let column = (x0 * spec.stride[1] + j * spec.dilation[1]).wrapping_sub(spec.padding[1]);
            if row < x.shape.h && column < x.shape.w {
                sum += w * x.at(image, first + d, row, column);
            }
        }
        sum
    })
}

/// By the batch's mean and biased variance.
fn normalise(x: &Map, eps: f64, weight: &[f64], bias: &[f64], n: usize) -> Map {
    let of = |c: usize| {
        let pixels = x.shape.pixels();
        let values = (0..n).flat_map(|i| &x.values[(i * x.shape.c + c) * pixels..][..pixels]);
        let count = (n * pixels) as f64;
        let mean = values.clone().sum::<f64>() / count;
        let variance = values.map(|v| (v - mean).powi(2)).sum::<f64>() / count;
        (mean, (variance + eps).sqrt())
    };
    let statistics: Vec<_> = (0..x.shape.c).map(of).collect();
    Map::filled(n, x.shape, |image, c, y, column| {
        (x.at(image, c, y, column) - statistics[c].0) / statistics[c].1 * weight[c] + bias[c]
    })
}

/// The operations without parameters.
fn plain(node: &Node, inputs: &[&Map], n: usize) -> Map {
    let x = inputs[0];
    Map::filled(n, node.shape, |image, c, y, column| match &node.op {
        Op::Activation(activation) => activate(*activation, x.at(image, c, y, column)),
        Op::MaxPool { kernel, stride, padding } => {
            let taps = (0..kernel * kernel).filter_map(|tap| {
                let row = (y * stride + tap / kernel).wrapping_sub(*padding);
                let column = (column * stride + tap % kernel).wrapping_sub(*padding);
                (row < x.shape.h && column < x.shape.w).then(|| x.at(image, c, row, column))
            });
            taps.fold(f64::NEG_INFINITY, f64::max)
        }
        Op::GlobalAvgPool => x.mean(image, c),
        Op::Add => x.at(image, c, y, column) + inputs[1].at(image, c, y, column),
        Op::Scale => x.at(image, c, y, column) * inputs[1].at(image, c, 0, 0),
        Op::Slice { start, .. } => x.at(image, start + c, y, column),
        Op::Concat => {
            let mut rest = c;
            let part = inputs.iter().find(|part| {
                let own = rest < part.shape.c;
                rest -= if own { 0 } else { part.shape.c };
                own
            });
            part.map_or(f64::NAN, |part| part.at(image, rest, y, column))
        }
        Op::Shuffle { groups } => {
            let size = x.shape.c / groups;
            x.at(image, c % groups * size + c / groups, y, column)
        }
        op => panic!("{} has parameters", op.kind()),
    })
}

fn activate(activation: Activation, x: f64) -> f64 {
    let gate = (x / 6.0 + 0.5).clamp(0.0, 1.0);
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Hardswish => x * gate,
        Activation::Hardsigmoid => gate,
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}
