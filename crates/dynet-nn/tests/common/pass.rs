//! Forward, cross entropy and backward of a net whose weights and images are formula's.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use dynet_net::{Net, Shape, formula};
use dynet_nn::NetModule;

/// What a pass gave: the loss, the gradients by name, that of the images as `images`, and as an optimizer takes them.
pub(crate) type Pass = (f32, BTreeMap<String, Vec<f32>>, GradientsParams);

/// The module of a net on a device, with formula's weights.
pub(crate) fn module_on(net: &Net, device: &Device) -> NetModule {
    NetModule::new(net, &formula::weights(net, 1.0), &device.clone().autodiff()).unwrap()
}

/// A pass over `batch` images, of which image `i` belongs to class `i` modulo the number of classes: as a net trains, on
/// CPUs with this crate's operations, or with `burn` node by node on Burn's.
pub(crate) fn pass(module: &NetModule, device: &Device, batch: usize, burn: bool) -> Pass {
    let device = device.clone().autodiff();
    let net = module.net();
    let Shape { c, h, w } = net.input();
    let classes = net.classes();
    let pixels: Vec<f32> = (0..batch).flat_map(|i| formula::image(net.input(), i)).collect();
    let images = Tensor::<4>::from_data(TensorData::new(pixels, [batch, c, h, w]), &device).require_grad();
    let logits =
        if burn { module.forward_taps(images.clone(), &[]).0 } else { module.forward(images.clone()) };
    let mut targets = vec![0.0_f32; batch * classes];
    (0..batch).for_each(|i| targets[i * classes + i % classes] = 1.0);
    let targets = Tensor::<2>::from_data(TensorData::new(targets, [batch, classes]), &device);
    let loss = (log_softmax(logits, 1) * targets).sum().neg() / batch as f64;
    let value = loss.clone().into_scalar();
    let gradients = loss.backward();
    let of_images = images.grad(&gradients).unwrap().into_data().iter::<f32>().collect();
    let gradients = GradientsParams::from_grads(gradients, module);
    let specs = module.param_specs();
    let mut collect = Collect { gradients: &gradients, specs: &specs, named: BTreeMap::new() };
    module.visit(&mut collect);
    let mut named = collect.named;
    named.insert("images".into(), of_images);
    (value, named, gradients)
}

struct Collect<'a> {
    gradients: &'a GradientsParams,
    specs: &'a std::collections::HashMap<burn::module::ParamId, dynet_net::ParamSpec>,
    named: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let values = gradient.into_data().iter::<f32>().collect();
            self.named.insert(self.specs[&param.id].name.clone(), values);
        }
    }
}
