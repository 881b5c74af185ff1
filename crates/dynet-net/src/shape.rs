//! Shape inference: what an operation makes of its inputs, or why it cannot.

use crate::op::{CoefActivation, Conv2d, Op, PaddingMode, Predictor, Shape};

/// Largest size of any one dimension of a feature map or a kernel.
pub const MAX_DIM: usize = 1 << 16;
/// Most values of one feature map or of one parameter tensor. A layer's multiply-adds, values of its output
/// times weights that one of them reads, then stay within 2^62.
pub const MAX_VALUES: usize = 1 << 31;
/// Most fixed kernels per output channel.
pub const MAX_EXPERTS: usize = 64;

type Refusal = String;

fn sizes_ok(what: &str, sizes: &[usize]) -> Result<(), Refusal> {
    if let Some(bad) = sizes.iter().find(|s| !(1..=MAX_DIM).contains(*s)) {
        return Err(format!("{what}: expected 1 to {MAX_DIM}, got {bad}"));
    }
    match sizes.iter().try_fold(1usize, |product, s| product.checked_mul(*s)) {
        Some(product) if product <= MAX_VALUES => Ok(()),
        _ => Err(format!("{what}: {sizes:?} is more than {MAX_VALUES} values")),
    }
}

pub(crate) fn rate_ok(what: &str, rate: f32) -> Result<(), Refusal> {
    if (0.0..1.0).contains(&rate) { Ok(()) } else { Err(format!("{what}: expected 0 <= p < 1, got {rate}")) }
}

pub(crate) fn activation_ok(activation: CoefActivation) -> Result<(), Refusal> {
    match activation {
        CoefActivation::Softmax { temperature } if !(temperature.is_finite() && temperature > 0.0) => {
            Err(format!("temperature: expected a finite value above 0, got {temperature}"))
        }
        CoefActivation::Softmax { .. } | CoefActivation::Sigmoid => Ok(()),
    }
}

/// Length of an output side: `(len + 2 padding - dilation (kernel - 1) - 1) / stride + 1`.
fn window(
    axis: &str,
    len: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
) -> Result<usize, Refusal> {
    let reach = dilation * (kernel - 1) + 1;
    let padded = len + 2 * padding;
    if padded < reach {
        return Err(format!("{axis}: the kernel reaches over {reach} pixels, the padded input has {padded}"));
    }
    Ok((padded - reach) / stride + 1)
}

fn conv(conv: &Conv2d, x: Shape) -> Result<Shape, Refusal> {
    sizes_ok("channels and groups", &[conv.c_in, conv.groups])?;
    sizes_ok("stride and dilation", &[conv.stride[0], conv.stride[1], conv.dilation[0], conv.dilation[1]])?;
    if let Some(bad) = conv.padding.iter().find(|p| **p >= MAX_DIM) {
        return Err(format!("padding: expected 0 to {}, got {bad}", MAX_DIM - 1));
    }
    if conv.c_in != x.c {
        return Err(format!("expected {} input channels, got {}", conv.c_in, x.c));
    }
    for (what, c) in [("input", conv.c_in), ("output", conv.c_out)] {
        if !c.is_multiple_of(conv.groups) {
            return Err(format!("{c} {what} channels do not divide into {} groups", conv.groups));
        }
    }
    let [kh, kw] = conv.kernel;
    let experts = conv.dynamic.map_or(1, |d| d.experts);
    sizes_ok("kernel", &[experts, conv.c_out, conv.c_in / conv.groups, kh, kw])?;
    for (axis, len, padding) in [("height", x.h, conv.padding[0]), ("width", x.w, conv.padding[1])] {
        // Beyond these limits PyTorch's padding is not defined either.
        let most = match conv.padding_mode {
            PaddingMode::Zeros | PaddingMode::Replicate => MAX_DIM,
            PaddingMode::Reflect => len - 1,
            PaddingMode::Circular => len,
        };
        if padding > most {
            return Err(format!("{axis}: expected padding of at most {most}, got {padding}"));
        }
    }
    let h = window("height", x.h, kh, conv.stride[0], conv.padding[0], conv.dilation[0])?;
    let w = window("width", x.w, kw, conv.stride[1], conv.padding[1], conv.dilation[1])?;
    Ok(Shape::new(conv.c_out, h, w))
}

fn predictor(predictor: &Predictor, x: Shape) -> Result<Shape, Refusal> {
    if predictor.heads.is_empty() {
        return Err("expected at least one head, got none".into());
    }
    for head in &predictor.heads {
        sizes_ok("head", &[head.experts, head.channels])?;
        if head.experts > MAX_EXPERTS {
            return Err(format!("expected 1 to {MAX_EXPERTS} experts, got {}", head.experts));
        }
    }
    activation_ok(predictor.activation)?;
    rate_ok("dropout", predictor.dropout)?;
    let coefficients = predictor.coefficients();
    // A block's coefficients may be more than MAX_DIM (K x 2048 x several); the product stays checked.
    let rows = predictor.hidden.unwrap_or(x.c);
    sizes_ok("hidden layer", &[rows, x.c])?;
    if coefficients.checked_mul(rows).is_none_or(|n| n > MAX_VALUES) {
        return Err(format!(
            "{coefficients} coefficients of {rows} features are more than {MAX_VALUES} values"
        ));
    }
    Ok(Shape::new(coefficients, 1, 1))
}

/// A dynamic convolution must read a predictor's head of its own size.
fn coefficients(conv: &Conv2d, source: &Op) -> Result<(), Refusal> {
    let Some(dynamic) = conv.dynamic else { return Ok(()) };
    let Op::Predictor(predictor) = source else {
        return Err(format!("coefficients: expected a predictor as input 1, got {}", source.kind()));
    };
    let Some(head) = predictor.heads.get(dynamic.head) else {
        return Err(format!(
            "coefficients: expected head {}, got {} heads",
            dynamic.head,
            predictor.heads.len()
        ));
    };
    if head.experts != dynamic.experts || ![1, conv.c_out].contains(&head.channels) {
        return Err(format!(
            "head {}: {} coefficients, {} needed ({} output channels x {} experts)",
            dynamic.head,
            head.len(),
            conv.c_out * dynamic.experts,
            conv.c_out,
            dynamic.experts
        ));
    }
    Ok(())
}

fn same(a: Shape, b: Shape) -> Result<Shape, Refusal> {
    if a == b { Ok(a) } else { Err(format!("expected two inputs of one shape, got {a} and {b}")) }
}

fn arity(op: &Op) -> std::ops::RangeInclusive<usize> {
    match op {
        Op::Input => 0..=0,
        Op::Conv2d(c) if c.dynamic.is_some() => 2..=2,
        Op::Add | Op::Scale => 2..=2,
        Op::Concat => 1..=MAX_DIM,
        _ => 1..=1,
    }
}

/// The shape of an operation's output, given its inputs and, for [`Op::Input`], the shape of an image.
///
/// # Errors
/// What was expected and what was got, without the node's name.
pub(crate) fn infer(op: &Op, inputs: &[(&Op, Shape)], image: Shape) -> Result<Shape, Refusal> {
    if !arity(op).contains(&inputs.len()) {
        let (least, most) = arity(op).into_inner();
        let expected = if least == most { least.to_string() } else { format!("{least} to {most}") };
        return Err(format!("expected {expected} inputs, got {}", inputs.len()));
    }
    let is_coef_user = matches!(op, Op::Conv2d(c) if c.dynamic.is_some());
    for (index, (source, _)) in inputs.iter().enumerate() {
        if matches!(source, Op::Predictor(_)) && !(is_coef_user && index == 1) {
            return Err("coefficients feed dynamic convolutions alone, as their input 1".into());
        }
    }
    let x = inputs.first().map_or(image, |input| input.1);
    let shape = match op {
        Op::Input => image,
        Op::Conv2d(c) => {
            // Sizes first: only checked ones may be multiplied.
            let shape = conv(c, x)?;
            if let Some(source) = inputs.get(1) {
                coefficients(c, source.0)?;
            }
            shape
        }
        Op::Predictor(p) => return predictor(p, x),
        Op::BatchNorm { eps, momentum } => {
            if !(eps.is_finite() && *eps > 0.0 && (0.0..=1.0).contains(momentum)) {
                return Err(format!(
                    "expected eps above 0 and momentum from 0 to 1, got {eps} and {momentum}"
                ));
            }
            x
        }
        Op::Activation(_) => x,
        Op::MaxPool { kernel, stride, padding } => {
            sizes_ok("window", &[*kernel, *stride])?;
            if *padding > kernel / 2 {
                return Err(format!("expected padding of at most {}, got {padding}", kernel / 2));
            }
            let side = |axis, len| window(axis, len, *kernel, *stride, *padding, 1);
            Shape::new(x.c, side("height", x.h)?, side("width", x.w)?)
        }
        Op::GlobalAvgPool => Shape::new(x.c, 1, 1),
        Op::Add => same(x, inputs[1].1)?,
        Op::Scale => {
            same(Shape::new(x.c, 1, 1), inputs[1].1)?;
            x
        }
        Op::Slice { start, len } => {
            if start.checked_add(*len).is_none_or(|end| end > x.c) {
                return Err(format!("expected channels within 0..{}, got {len} from {start}", x.c));
            }
            Shape::new(*len, x.h, x.w)
        }
        Op::Concat => {
            let mut c = 0;
            for (_, shape) in inputs {
                same(Shape::new(1, x.h, x.w), Shape::new(1, shape.h, shape.w))?;
                c += shape.c;
            }
            Shape::new(c, x.h, x.w)
        }
        Op::Shuffle { groups } => {
            if *groups == 0 || !x.c.is_multiple_of(*groups) {
                return Err(format!("{} channels do not divide into {groups} groups", x.c));
            }
            x
        }
        Op::Linear { c_out } => {
            sizes_ok("weights", &[*c_out, x.c])?;
            same(Shape::new(x.c, 1, 1), x)?;
            Shape::new(*c_out, 1, 1)
        }
        Op::Dropout { rate } => {
            rate_ok("rate", *rate)?;
            x
        }
    };
    sizes_ok("output", &[shape.c, shape.h, shape.w])?;
    Ok(shape)
}
