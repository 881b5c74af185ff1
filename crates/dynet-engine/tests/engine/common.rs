//! A naive interpreter of nets in f64, the oracle of the engine, and small helpers.

use dynet_net::{
    Activation, CoefActivation, Conv2d, Net, NodeId, Op, PaddingMode, Predictor, Shape, Weights,
};

/// A stream of pseudo-random numbers (a 64-bit linear congruential generator, Knuth's constants).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    pub(crate) fn value(&mut self) -> f32 {
        self.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    pub(crate) fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.value()).collect()
    }
}

/// Weights with norms and biases that are not the identity.
pub(crate) fn weights(net: &Net, seed: u64) -> Weights {
    use dynet_net::ParamKind as P;
    let mut weights = Weights::init(net, seed);
    let mut r = Random(seed + 1);
    for spec in net.params() {
        let (middle, spread) = match spec.kind {
            // Small enough that maps do not grow from block to block: coefficients of huge means are chaotic.
            P::NormWeight => (0.5, 0.2),
            P::RunningVar => (1.0, 0.3),
            P::RunningMean => (0.0, 0.2),
            P::Bias => (0.0, 0.3),
            P::PredictorWeight => (0.0, 2.0 / (spec.fan_in as f32).sqrt()),
            P::ConvWeight | P::LinearWeight => continue,
        };
        let data = r.values(spec.len()).iter().map(|v| middle + spread * v).collect();
        weights.insert(spec.name.clone(), spec.shape.clone(), data);
    }
    weights
}

/// The outputs `[c, h, w]` of all nodes for one image.
pub(crate) fn interpret(net: &Net, weights: &Weights, image: &[f32]) -> Vec<Vec<f64>> {
    let mut outputs: Vec<Vec<f64>> = Vec::new();
    for id in net.ids() {
        let node = net.node(id);
        let x = |at: usize| &outputs[node.inputs[at].index()][..];
        let shape = |at: usize| net.node(node.inputs[at]).shape;
        let tensor = |suffix: &str| -> Vec<f64> {
            let name = format!("{}.{suffix}", node.name);
            weights.get(&name).expect("a tensor").data.iter().map(|v| f64::from(*v)).collect()
        };
        let each = |f: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
            let pixels = shape(0).pixels();
            x(0).iter().enumerate().map(|(i, v)| f(i / pixels, *v)).collect()
        };
        let output = match &node.op {
            Op::Input => image.iter().map(|v| f64::from(*v)).collect(),
            Op::Conv2d(c) => {
                let bias = if c.bias { tensor("bias") } else { vec![0.0; c.c_out] };
                let kernel = fused(net, id, c, &tensor("weight"), node.inputs.get(1).map(|_| x(1)));
                conv(c, x(0), shape(0), node.shape, &kernel, &bias)
            }
            Op::Predictor(p) => predictor(p, &means(x(0), shape(0)), &tensor),
            Op::BatchNorm { eps, .. } => {
                let [w, b, m, v] = ["weight", "bias", "running_mean", "running_var"].map(tensor);
                each(&|c, x| (x - m[c]) / (v[c] + f64::from(*eps)).sqrt() * w[c] + b[c])
            }
            Op::Activation(a) => each(&|_, x| activate(*a, x)),
            Op::MaxPool { kernel, stride, padding } => {
                max_pool([*kernel, *stride, *padding], x(0), shape(0), node.shape)
            }
            Op::GlobalAvgPool => means(x(0), shape(0)),
            Op::Add => x(0).iter().zip(x(1)).map(|(a, b)| a + b).collect(),
            Op::Scale => each(&|c, v| v * x(1)[c]),
            Op::Slice { start, len } => {
                let pixels = shape(0).pixels();
                x(0)[start * pixels..(start + len) * pixels].to_vec()
            }
            Op::Concat => (0..node.inputs.len()).flat_map(|i| x(i).to_vec()).collect(),
            Op::Shuffle { groups } => {
                let (c, pixels) = (node.shape.c, node.shape.pixels());
                let from = |to: usize| to % groups * (c / groups) + to / groups;
                (0..c).flat_map(|to| x(0)[from(to) * pixels..][..pixels].to_vec()).collect()
            }
            Op::Linear { .. } => linear(x(0), &tensor("weight"), &tensor("bias")),
            Op::Dropout { .. } => x(0).to_vec(),
        };
        assert_eq!(output.len(), node.shape.len(), "{}", node.name);
        outputs.push(output);
    }
    outputs
}

/// `sum_i eta_i w_i` for each output channel; the kernel itself of a static convolution.
fn fused(net: &Net, id: NodeId, c: &Conv2d, kernels: &[f64], coefs: Option<&[f64]>) -> Vec<f64> {
    let (Some(dynamic), Some(coefs)) = (c.dynamic, coefs) else { return kernels.to_vec() };
    let Op::Predictor(p) = &net.node(net.node(id).inputs[1]).op else { panic!("no predictor") };
    let head = p.heads[dynamic.head];
    let coefs = &coefs[p.head_offset(dynamic.head)..][..head.len()];
    let fan_in = c.fan_in();
    let one = |i: usize| {
        let channel = if head.channels == 1 { 0 } else { i / fan_in };
        (0..head.experts).map(|e| coefs[e * head.channels + channel] * kernels[e * c.kernel_len() + i]).sum()
    };
    (0..c.kernel_len()).map(one).collect()
}

fn source(mode: PaddingMode, i: isize, len: usize) -> Option<usize> {
    let n = len as isize;
    let at = match mode {
        _ if (0..n).contains(&i) => i,
        PaddingMode::Zeros => return None,
        PaddingMode::Reflect => {
            if i < 0 {
                -i
            } else {
                2 * (n - 1) - i
            }
        }
        PaddingMode::Replicate => i.clamp(0, n - 1),
        PaddingMode::Circular => i.rem_euclid(n),
    };
    Some(at as usize)
}

fn conv(c: &Conv2d, x: &[f64], from: Shape, to: Shape, kernel: &[f64], bias: &[f64]) -> Vec<f64> {
    let (c_in, c_out) = (c.c_in / c.groups, c.c_out / c.groups);
    let mut output = Vec::with_capacity(to.len());
    for o in 0..c.c_out {
        for (y, x0) in (0..to.h).flat_map(|y| (0..to.w).map(move |x| (y, x))) {
            let mut sum = bias[o];
            for (ky, kx) in (0..c.kernel[0]).flat_map(|ky| (0..c.kernel[1]).map(move |kx| (ky, kx))) {
                let at = |p: usize, k: usize, d: usize| {
                    (p * c.stride[d] + k * c.dilation[d]) as isize - c.padding[d] as isize
                };
                let row = source(c.padding_mode, at(y, ky, 0), from.h);
                let column = source(c.padding_mode, at(x0, kx, 1), from.w);
                let Some((row, column)) = row.zip(column) else { continue };
                for i in 0..c_in {
                    let channel = o / c_out * c_in + i;
                    let w = kernel[((o * c_in + i) * c.kernel[0] + ky) * c.kernel[1] + kx];
                    sum += w * x[(channel * from.h + row) * from.w + column];
                }
            }
            output.push(sum);
        }
    }
    output
}

fn means(x: &[f64], shape: Shape) -> Vec<f64> {
    x.chunks(shape.pixels()).map(|plane| plane.iter().sum::<f64>() / plane.len() as f64).collect()
}

fn linear(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let row = |(row, b): (&[f64], &f64)| b + row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
    weight.chunks(x.len()).zip(bias).map(row).collect()
}

fn predictor(p: &Predictor, pooled: &[f64], tensor: &dyn Fn(&str) -> Vec<f64>) -> Vec<f64> {
    let mut y = match p.hidden {
        None => linear(pooled, &tensor("fc.weight"), &tensor("fc.bias")),
        Some(_) => {
            let hidden = linear(pooled, &tensor("fc1.weight"), &tensor("fc1.bias"));
            let hidden: Vec<f64> = hidden.iter().map(|v| v.max(0.0)).collect();
            linear(&hidden, &tensor("fc2.weight"), &tensor("fc2.bias"))
        }
    };
    for (i, head) in p.heads.iter().enumerate() {
        let y = &mut y[p.head_offset(i)..][..head.len()];
        match p.activation {
            CoefActivation::Sigmoid => y.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp())),
            CoefActivation::Softmax { temperature } => {
                for c in 0..head.channels {
                    let all: Vec<usize> = (0..head.experts).map(|e| e * head.channels + c).collect();
                    let exp = |i: &usize| (y[*i] / f64::from(temperature)).exp();
                    let sum: f64 = all.iter().map(exp).sum();
                    let share: Vec<f64> = all.iter().map(|i| exp(i) / sum).collect();
                    all.iter().zip(share).for_each(|(i, s)| y[*i] = s);
                }
            }
        }
    }
    y
}

fn activate(a: Activation, x: f64) -> f64 {
    let gate = (x + 3.0).clamp(0.0, 6.0) / 6.0;
    match a {
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Hardswish => x * gate,
        Activation::Hardsigmoid => gate,
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

fn max_pool([kernel, stride, padding]: [usize; 3], x: &[f64], from: Shape, to: Shape) -> Vec<f64> {
    let mut output = Vec::with_capacity(to.len());
    for (c, y, x0) in (0..to.c).flat_map(|c| (0..to.h).flat_map(move |y| (0..to.w).map(move |x| (c, y, x)))) {
        let mut best = f64::NEG_INFINITY;
        for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
            let (row, column) = (y * stride + ky, x0 * stride + kx);
            let inside =
                (padding..from.h + padding).contains(&row) && (padding..from.w + padding).contains(&column);
            if inside {
                best = best.max(x[(c * from.h + row - padding) * from.w + column - padding]);
            }
        }
        output.push(best);
    }
    output
}

/// Largest difference, relative to the largest value that was expected.
pub(crate) fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-6_f64, |m, v| m.max(v.abs()));
    got.iter().zip(want).fold(0.0, |m: f64, (g, w)| m.max((f64::from(*g) - w).abs())) / scale
}
