//! One step of training that changes a module's parameters in their own memory.

use std::collections::HashMap;

use burn::module::ParamId;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::net_module::NetModule;
use crate::ops::Slots;

/// A step that has been forward ([`NetModule::step`]). On a CPU backward updates dense weights while their gradients are
/// in cache; until the step ends they are not in the module, which has zeros in their place.
///
/// A step that is dropped gives the module its weights back, and makes no update any more.
#[derive(Debug)]
pub struct Step<'a> {
    module: &'a mut NetModule,
    slots: Slots,
}

impl<'a> Step<'a> {
    pub(crate) fn new(module: &'a mut NetModule, slots: Slots) -> Self {
        Self { module, slots }
    }

    /// The logits.
    pub(crate) fn forward(&mut self, images: Tensor<4>) -> Tensor<2> {
        if let Some(graph) = self.module.graph(&images) {
            self.module.map_layers(&mut self.slots.lend(&graph));
            if let Some(logits) = self.module.forward_at_once(&images, Some(&self.slots)) {
                return logits;
            }
            self.module.map_layers(&mut self.slots.take_back());
        }
        self.module.forward_taps(images, &[]).0
    }

    /// The module, to tell whose gradients are whose.
    pub fn module(&self) -> &NetModule {
        self.module
    }

    /// Makes the updates that backward has not made, in place, and returns the new state of each parameter. One without a
    /// gradient stays as it is, and so does its state.
    ///
    /// # Panics
    /// Where a gradient or state has not the size of its parameter.
    pub fn finish(self, gradients: GradientsParams) -> HashMap<ParamId, Vec<Tensor<1>>> {
        let mut end = self.slots.end(Some(gradients));
        self.module.map_layers(&mut end);
        end.states
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if self.slots.is_open() {
            let mut end = self.slots.end(None);
            self.module.map_layers(&mut end);
        }
    }
}
