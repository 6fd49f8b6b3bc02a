//! What a subscription is granted: operations and models.

use std::sync::Arc;

use super::AccessError;
use crate::config::{Config, Model, ModelScope, Subscription};
use crate::request::operation::Class;

impl Subscription {
    /// Whether it is granted operations of this class.
    pub fn check_operation(&self, class: Class) -> Result<(), AccessError> {
        if self.is_granted(class) {
            return Ok(());
        }
        let grant = match class {
            Class::Inference => "inference",
            Class::Resources => "resources",
        };
        Err(AccessError::OperationNotGranted { id: self.id.clone(), grant })
    }

    /// Whether its requests may have data sources, which are read with the resource's own identity: as what
    /// is stored on the resource.
    pub fn may_use_data_sources(&self) -> bool {
        self.is_granted(Class::Resources)
    }

    fn is_granted(&self, class: Class) -> bool {
        match class {
            Class::Inference => self.operations.inference,
            Class::Resources => self.operations.resources,
        }
    }

    /// The model of this name, if there is one and this subscription may use it.
    pub fn model<'c>(&self, config: &'c Config, name: &str) -> Result<&'c Arc<Model>, AccessError> {
        let Some(model) = config.models.get(name) else {
            let (id, allowed) = (self.id.clone(), self.allowed_models(config));
            return Err(AccessError::UnknownModel { id, allowed });
        };
        if self.may_use(name) {
            return Ok(model);
        }
        let (id, allowed) = (self.id.clone(), self.allowed_models(config));
        Err(AccessError::ModelNotAllowed { id, allowed })
    }

    fn may_use(&self, model: &str) -> bool {
        match &self.models {
            ModelScope::All => true,
            ModelScope::Only(names) => {
                names.binary_search_by(|name| name.as_str().cmp(model)).is_ok()
            }
        }
    }

    /// The names of the models that it may use, in order.
    pub fn model_names<'c>(&'c self, config: &'c Config) -> Vec<&'c str> {
        match &self.models {
            ModelScope::All => config.models.keys().map(String::as_str).collect(),
            ModelScope::Only(names) => names.iter().map(String::as_str).collect(),
        }
    }

    /// The first of its models, for a message.
    fn allowed_models(&self, config: &Config) -> String {
        /// More would be no help.
        const SHOWN: usize = 10;
        let names = self.model_names(config);
        let shown: Vec<&str> = names.iter().take(SHOWN).copied().collect();
        let more = if names.len() > SHOWN { ", …" } else { "" };
        shown.join(", ") + more
    }
}
