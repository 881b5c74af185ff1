//! A single layer's tensors under PyTorch's names.

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use dynet_net::{Weights, WeightsError};

use crate::dyconv::DyConv2d;
use crate::error::NnError;

impl DyConv2d {
    /// Its tensors under the names of the PyTorch layer that it equals: `weight`, `bias`,
    /// `_coefficient_fn.fc.weight` and `_coefficient_fn.fc.bias`.
    pub fn state(&self) -> Weights {
        let mut state = Weights::new();
        insert(&mut state, "weight", &self.kernels.weight);
        if let Some(bias) = &self.kernels.bias {
            insert(&mut state, "bias", bias);
        }
        insert(&mut state, "_coefficient_fn.fc.weight", &self.predictor.fc.weight);
        insert(&mut state, "_coefficient_fn.fc.bias", &self.predictor.fc.bias);
        state
    }

    /// The same layer with the values of a state dict, which [`Weights::read`] reads from a file that PyTorch's
    /// users saved.
    ///
    /// # Errors
    /// [`NnError::Weights`] that lists every tensor that is missing, extra, misshapen or not finite.
    pub fn with_state(mut self, state: &Weights) -> Result<Self, NnError> {
        self.check(state)?;
        self.kernels.weight = replaced(self.kernels.weight, state, "weight");
        self.kernels.bias = self.kernels.bias.map(|bias| replaced(bias, state, "bias"));
        let fc = &mut self.predictor.fc;
        fc.weight = replaced(fc.weight.clone(), state, "_coefficient_fn.fc.weight");
        fc.bias = replaced(fc.bias.clone(), state, "_coefficient_fn.fc.bias");
        Ok(self)
    }

    fn check(&self, state: &Weights) -> Result<(), WeightsError> {
        let own = self.state();
        let mut problems = Vec::new();
        for (name, wanted) in own.iter() {
            let problem = match state.get(name) {
                None => format!("{name}: missing, expected shape {:?}", wanted.shape),
                Some(got) if got.shape != wanted.shape => {
                    format!("{name}: expected shape {:?}, got {:?}", wanted.shape, got.shape)
                }
                Some(got) => match got.data.iter().find(|v| !v.is_finite()) {
                    Some(value) => format!("{name}: value {value}, expected finite values"),
                    None => continue,
                },
            };
            problems.push(problem);
        }
        let extra = state.iter().filter(|(name, _)| own.get(name).is_none());
        problems.extend(extra.map(|(name, _)| format!("{name}: extra, not a tensor of this layer")));
        match problems.is_empty() {
            true => Ok(()),
            false => Err(WeightsError::Misfit { net: "DyConv2d".into(), problems }),
        }
    }
}

fn insert<const D: usize>(state: &mut Weights, name: &str, param: &Param<Tensor<D>>) {
    let tensor = param.val();
    state.insert(name, tensor.dims().to_vec(), tensor.into_data().iter::<f32>().collect());
}

/// A parameter with the values of a tensor that has been checked to be there.
fn replaced<const D: usize>(param: Param<Tensor<D>>, state: &Weights, name: &str) -> Param<Tensor<D>> {
    let tensor = state.get(name).expect("the state dict was checked");
    param.map(|old| {
        let data = TensorData::new(tensor.data.clone(), tensor.shape.clone());
        let new = Tensor::from_data(data, &old.device());
        if old.is_require_grad() { new.require_grad() } else { new }
    })
}
