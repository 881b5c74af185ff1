//! Where a net runs: CPUs, and what features of the build add.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

#[cfg(any(feature = "wgpu", feature = "metal"))]
use burn::tensor::DeviceKind;
#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm", feature = "metal"))]
use burn::tensor::DeviceType;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a device is driven by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// The processor, on Burn's backend in Rust and this crate's own operations. Always built.
    #[default]
    Cpu,
    /// Whatever graphics interface the machine has: Vulkan, Metal, DirectX.
    Wgpu,
    /// NVIDIA's.
    Cuda,
    /// AMD's.
    Rocm,
    /// Apple's.
    Metal,
}

impl Driver {
    const ALL: [Self; 5] = [Self::Cpu, Self::Wgpu, Self::Cuda, Self::Rocm, Self::Metal];

    /// Its name, which is that of the feature that builds it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
        }
    }

    /// The device that is taken where no index is given.
    fn default_device(self) -> Option<Device> {
        match self {
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Some(Device::wgpu(DeviceKind::DefaultDevice)),
            #[cfg(feature = "metal")]
            Self::Metal => Some(Device::metal(DeviceKind::DefaultDevice)),
            _ => None,
        }
    }

    /// The devices that this machine has; `None` where the driver was not built.
    fn devices(self) -> Option<Vec<Device>> {
        match self {
            Self::Cpu => Some(vec![Device::flex()]),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Some(Device::enumerate(DeviceType::Wgpu).into_vec()),
            #[cfg(feature = "cuda")]
            Self::Cuda => Some(Device::enumerate(DeviceType::Cuda).into_vec()),
            #[cfg(feature = "rocm")]
            Self::Rocm => Some(Device::enumerate(DeviceType::Rocm).into_vec()),
            #[cfg(feature = "metal")]
            Self::Metal => Some(Device::enumerate(DeviceType::Metal).into_vec()),
            #[cfg(not(all(feature = "wgpu", feature = "cuda", feature = "rocm", feature = "metal")))]
            _ => None,
        }
    }
}

/// Names a device: `cpu`, `wgpu`, `cuda:1`. Without an index it is the driver's first, of a graphics interface its fastest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName {
    /// What drives it.
    pub driver: Driver,
    /// Which of the driver's devices.
    pub index: Option<usize>,
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.driver.name())?;
        self.index.map_or(Ok(()), |index| write!(f, ":{index}"))
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown { got: text.to_owned() };
        let (driver, index) = match text.split_once(':') {
            Some((driver, index)) => (driver, Some(index.parse().map_err(|_| unknown())?)),
            None => (text, None),
        };
        let driver = Driver::ALL.into_iter().find(|d| d.name() == driver).ok_or_else(unknown)?;
        Ok(Self { driver, index })
    }
}

impl TryFrom<String> for DeviceName {
    type Error = DeviceError;

    fn try_from(text: String) -> Result<Self, DeviceError> {
        text.parse()
    }
}

/// Why there is no such device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// No name of a device.
    #[error("device: expected cpu, wgpu, cuda, rocm or metal, with :INDEX for one of several, got {got}")]
    Unknown {
        /// What was given.
        got: String,
    },
    /// A driver that this build leaves out.
    #[error(
        "device {name}: not in this build; `cargo build --release --features {feature}` makes one that has it"
    )]
    NotBuilt {
        /// What was asked for.
        name: DeviceName,
        /// The feature that is missing.
        feature: &'static str,
    },
    /// An index beyond the devices of the driver.
    #[error("device {name}: expected an index below {found}, the number of its devices on this machine")]
    Index {
        /// What was asked for.
        name: DeviceName,
        /// Devices of the driver.
        found: usize,
    },
    /// A driver without a device.
    #[error("device {name}: expected an adapter of this kind, found none on this machine")]
    NoAdapter {
        /// What was asked for.
        name: DeviceName,
    },
    /// A device that does not calculate.
    #[error("device {name}: it is there, but does not calculate: {problem}")]
    Refused {
        /// What was asked for.
        name: DeviceName,
        /// What the driver said.
        problem: String,
    },
}

impl DeviceError {
    /// Whether another request would have been right, and not another machine.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::NotBuilt { .. } | Self::Index { .. })
    }
}

/// Devices that have been seen to calculate.
static OPEN: Mutex<Vec<(DeviceName, Device)>> = Mutex::new(Vec::new());

impl DeviceName {
    /// The device, once it has been seen to calculate.
    ///
    /// # Errors
    /// [`DeviceError`] where this build or this machine has no such device.
    pub fn open(self) -> Result<Device, DeviceError> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, device)) = open.iter().find(|(name, _)| *name == self) {
            return Ok(device.clone());
        }
        let device = self.find()?;
        if self.driver != Driver::Cpu {
            self.probe(&device)?;
        }
        open.push((self, device.clone()));
        Ok(device)
    }

    fn find(self) -> Result<Device, DeviceError> {
        let mut devices =
            self.driver.devices().ok_or(DeviceError::NotBuilt { name: self, feature: self.driver.name() })?;
        match (devices.len(), self.index) {
            (0, _) => Err(DeviceError::NoAdapter { name: self }),
            (found, Some(index)) if index >= found => Err(DeviceError::Index { name: self, found }),
            (_, None) => Ok(self.driver.default_device().unwrap_or_else(|| devices.swap_remove(0))),
            (_, Some(index)) => Ok(devices.swap_remove(index)),
        }
    }

    /// Lets the device add. Burn's GPU backends start at the first operation, and panic where a library of the driver
    /// is missing or the adapter gives no device: here that becomes an error.
    fn probe(self, device: &Device) -> Result<(), DeviceError> {
        let two = || -> Vec<f32> {
            let one = Tensor::<1>::ones([1], device);
            (one.clone() + one).into_data().iter::<f32>().collect()
        };
        let problem = match catch_unwind(AssertUnwindSafe(two)) {
            Ok(sum) if sum == [2.0] => return Ok(()),
            Ok(sum) => format!("1 + 1 gave {sum:?}"),
            Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
                (Some(text), _) => text.clone(),
                (None, Some(text)) => (*text).to_owned(),
                (None, None) => "its driver gave no reason".to_owned(),
            },
        };
        Err(DeviceError::Refused { name: self, problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["cpu", "wgpu", "cuda:1", "rocm:0", "metal"] {
            assert_eq!(text.parse::<DeviceName>().unwrap().to_string(), text);
        }
        for text in ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:1:2", "cuda:99999999999999999999"] {
            let error = text.parse::<DeviceName>().unwrap_err();
            assert_eq!(error, DeviceError::Unknown { got: text.into() });
        }
        assert_eq!(DeviceName::default().to_string(), "cpu");
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error_with_its_reason() {
        assert!("cpu".parse::<DeviceName>().unwrap().open().is_ok());
        let name: DeviceName = "cpu:1".parse().unwrap();
        assert_eq!(name.open().unwrap_err(), DeviceError::Index { name, found: 1 });
        // Whatever this build and this machine have, nothing has a thousand devices.
        for driver in Driver::ALL {
            let error = DeviceName { driver, index: Some(1000) }.open().unwrap_err();
            let built = driver.devices().is_some();
            assert_eq!(matches!(error, DeviceError::NotBuilt { .. }), !built, "{error}");
            assert!(error.to_string().contains(driver.name()), "{error}");
        }
    }
}
