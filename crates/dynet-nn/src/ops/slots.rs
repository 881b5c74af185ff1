//! A step that changes a module's parameters in their own memory: the module lends those that backward can update while
//! it makes their gradients, and gets them back with their new values.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::module::{ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};

use crate::ops::graph::Graph;
use crate::ops::update::{ParamUpdate, is_whole};

/// What becomes of one parameter in a step.
#[derive(Debug)]
enum Slot {
    /// The module has it.
    Waiting(ParamUpdate),
    /// It is lent.
    Lent(Lent),
    /// A pass is at it.
    Taken,
}

/// A parameter that the module does not have for the time of a step.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) values: FlexTensor,
    pub(super) update: ParamUpdate<FlexTensor>,
}

/// The updates of a module's parameters in one step, in the order of the parameters. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    ids: Arc<[ParamId]>,
    slots: Arc<Mutex<Vec<Slot>>>,
}

impl Slots {
    pub(crate) fn new(ids: Vec<ParamId>, of: impl FnMut(ParamId) -> ParamUpdate) -> Self {
        let slots = ids.iter().copied().map(of).map(Slot::Waiting).collect();
        Self { ids: ids.into(), slots: Arc::new(Mutex::new(slots)) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What takes those parameters out of a module that backward of `graph` updates, but for frozen ones. In their place
    /// the module has zeros that take no memory.
    pub(crate) fn lend(&self, graph: &Graph) -> impl ModuleMapper {
        let ids = graph.updated().into_iter().filter_map(|index| Some((*self.ids.get(index)?, index)));
        Lend { slots: self.clone(), indices: ids.collect() }
    }

    /// The values of a lent parameter.
    pub(super) fn values(&self, index: usize) -> Option<FlexTensor> {
        match self.lock().get(index) {
            Some(Slot::Lent(lent)) => Some(lent.values.clone()),
            _ => None,
        }
    }

    /// All lent parameters, for a pass that may update them; `None` once the step has ended.
    pub(super) fn take(&self) -> Option<Taken<'_>> {
        let take = |slot: &mut Slot| match std::mem::replace(slot, Slot::Taken) {
            Slot::Lent(lent) => Some(lent),
            other => {
                *slot = other;
                None
            }
        };
        let all: Vec<_> = self.lock().iter_mut().map(take).collect();
        (!all.is_empty()).then_some(Taken { slots: self, all })
    }

    /// What gives all lent parameters back to their module, for the time being.
    pub(crate) fn take_back(&self) -> impl ModuleMapper {
        TakeBack(self.clone())
    }

    /// What ends a step: gives lent parameters back and updates those that have a gradient. Without `gradients` nothing is
    /// updated any more.
    pub(crate) fn end(&self, gradients: Option<GradientsParams>) -> End {
        let slots = std::mem::take(&mut *self.lock());
        let slots = self.ids.iter().copied().zip(slots).collect();
        End { slots, gradients: gradients.unwrap_or_default(), states: HashMap::new() }
    }

    /// Whether the step has not been ended.
    pub(crate) fn is_open(&self) -> bool {
        !self.lock().is_empty()
    }
}

/// Lent parameters in the hands of a pass; they go back to their slots however it ends.
pub(super) struct Taken<'a> {
    slots: &'a Slots,
    pub(super) all: Vec<Option<Lent>>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for (slot, lent) in self.slots.lock().iter_mut().zip(self.all.drain(..)) {
            if let Some(lent) = lent {
                *slot = Slot::Lent(lent);
            }
        }
    }
}

struct Lend {
    slots: Slots,
    indices: HashMap<ParamId, usize>,
}

impl ModuleMapper for Lend {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(index) = self.indices.remove(&param.id).filter(|_| param.is_require_grad()) else {
            return param;
        };
        let (id, tensor, mapper) = param.consume();
        let (shape, tensor) = (tensor.dims(), tensor.inner());
        let device = tensor.device();
        let mut slots = self.slots.lock();
        let taken = slots.get_mut(index).and_then(|slot| {
            let Slot::Waiting(update) = slot else { return None };
            let update = update.on_flex(shape.iter().product())?;
            let values = tensor.clone().try_into_primitive::<Flex>().ok()?;
            (values.dtype() == DType::F32 && is_whole(&values)).then_some((slot, values, update))
        });
        let tensor = match taken {
            Some((slot, values, update)) => {
                // What the slot held goes too: nobody else may hold the state, or it would be copied.
                *slot = Slot::Lent(Lent { values, update });
                Tensor::<D>::zeros([1; D], &device).expand(shape)
            }
            None => tensor,
        };
        Param::from_mapped_value(id, Tensor::from_inner(tensor).require_grad(), mapper)
    }
}

struct TakeBack(Slots);

impl ModuleMapper for TakeBack {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let mut slots = self.0.lock();
        let Some(slot) = self.0.ids.iter().position(|id| *id == param.id).map(|index| &mut slots[index])
        else {
            return param;
        };
        let Slot::Lent(Lent { values, update }) = slot else { return param };
        let tensor = Tensor::from_primitive::<Flex>(values.clone());
        *slot = Slot::Waiting(update.clone().into_burn());
        let (id, _, mapper) = param.consume();
        Param::from_mapped_value(id, Tensor::from_inner(tensor).require_grad(), mapper)
    }
}

/// Ends a step ([`Slots::end`]).
pub(crate) struct End {
    slots: HashMap<ParamId, Slot>,
    gradients: GradientsParams,
    /// The new state of each parameter.
    pub(crate) states: HashMap<ParamId, Vec<Tensor<1>>>,
}

impl ModuleMapper for End {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(slot) = self.slots.remove(&param.id) else { return param };
        let gradient = self.gradients.remove::<D>(param.id);
        let trains = param.is_require_grad();
        let (id, tensor, mapper) = param.consume();
        let (tensor, state) = match (slot, gradient) {
            (Slot::Lent(Lent { values, update }), _) => {
                (Tensor::from_primitive::<Flex>(values), update.into_burn().state)
            }
            (Slot::Waiting(update), Some(gradient)) => {
                let shape = tensor.dims();
                let len = shape.iter().product::<usize>();
                let (values, state) = update.step(tensor.inner().reshape([len]), gradient.reshape([len]));
                (values.reshape(shape), state)
            }
            (Slot::Waiting(update), None) => (tensor.inner(), update.state),
            (Slot::Taken, _) => (tensor.inner(), Vec::new()),
        };
        self.states.insert(id, state);
        Param::from_mapped_value(id, Tensor::from_inner(tensor).set_require_grad(trains), mapper)
    }
}
