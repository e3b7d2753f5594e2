//! Policies by what their head names, so that a call meets only those that can match.
//!
//! Policies that speak of a tool's arguments stand apart: they hold only together with the types of
//! that tool as it is approved now. Where they do not fit, every call of the tool is denied.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use cedar_policy::{
    EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint, Schema, ValidationMode, Validator,
};

use super::{Fenced, InputType, tool_id};
use crate::admission::Tool;
use crate::policy::load::{self, LoadedPolicy, PolicyError, PolicyFault};

pub(super) struct Slices {
    pub schema: Schema,
    general: PolicySet,
    /// By the tool, the server or the agent that the head names.
    named: HashMap<EntityUid, PolicySet>,
    typed: HashMap<EntityUid, TypedSlice>,
}

/// The policies of one tool that read `context.input`.
struct TypedSlice {
    policies: Vec<LoadedPolicy>,
    /// What was made of the tool with this digest.
    made: RwLock<Option<(String, Made)>>,
}

type Made = Result<Arc<Types>, Vec<PolicyFault>>;

pub(super) struct Types {
    pub schema: Schema,
    pub input: InputType,
}

impl Slices {
    pub fn of(schema: Schema, policies: Vec<LoadedPolicy>) -> Result<Self, String> {
        let mut slices = Self { schema, general: PolicySet::new(), named: HashMap::new(), typed: HashMap::new() };
        for loaded in policies {
            let policy = loaded.policy.clone();
            let slice = match place(&policy) {
                Some(uid) => slices.named.entry(uid).or_default(),
                None => &mut slices.general,
            };
            slice.add(policy).map_err(|e| e.to_string())?;
            if let Some(tool) = loaded.tool.clone() {
                let new = || TypedSlice { policies: Vec::new(), made: RwLock::default() };
                slices.typed.entry(tool).or_insert_with(new).policies.push(loaded);
            }
        }
        Ok(slices)
    }

    /// The sets that can say anything of a call at these entities.
    pub fn sets<'a>(&'a self, at: &'a [EntityUid]) -> impl Iterator<Item = &'a PolicySet> {
        at.iter().filter_map(|uid| self.named.get(uid)).chain([&self.general])
    }

    /// The types that the tool's policies need; `None` where none speaks of its arguments. The error
    /// says which policy does not fit the tool.
    pub fn types_for(&self, uid: &EntityUid, tool: &Tool) -> Result<Option<Arc<Types>>, String> {
        let Some(slice) = self.typed.get(uid) else { return Ok(None) };
        slice.types(tool).map(Some).map_err(|faults| load::join(&faults))
    }

    /// All faults of the policies against the tools that are approved.
    pub fn check(&self, approved: &[Tool]) -> Result<(), PolicyError> {
        let faults: Vec<PolicyFault> = self.each(approved).filter_map(|(_, made)| made?.err()).flatten().collect();
        if faults.is_empty() { Ok(()) } else { Err(PolicyError::Faults(faults)) }
    }

    /// Approved tools whose policies do not fit, and tools with policies that are not approved.
    pub fn misfits(&self, approved: &[Tool]) -> (Vec<Fenced>, Vec<String>) {
        let (mut fenced, mut asleep) = (Vec::new(), Vec::new());
        for (tool, made) in self.each(approved) {
            match made {
                None => asleep.push(tool),
                Some(Err(faults)) => fenced.push(Fenced { tool, error: load::join(&faults) }),
                Some(Ok(_)) => {}
            }
        }
        fenced.sort_by(|a, b| a.tool.cmp(&b.tool));
        asleep.sort();
        (fenced, asleep)
    }

    fn each<'a>(&'a self, approved: &'a [Tool]) -> impl Iterator<Item = (String, Option<Made>)> + 'a {
        let by_id: HashMap<String, &Tool> =
            approved.iter().map(|tool| (tool_id(&tool.server, &tool.name), tool)).collect();
        self.typed.iter().map(move |(uid, slice)| {
            let id: &str = uid.id().unescaped();
            (id.to_owned(), by_id.get(id).map(|tool| slice.types(tool)))
        })
    }
}

impl TypedSlice {
    fn types(&self, tool: &Tool) -> Made {
        if let Some((digest, made)) = &*self.made.read().unwrap_or_else(PoisonError::into_inner)
            && *digest == tool.digest
        {
            return made.clone();
        }
        let made = self.make(tool);
        if let Err(faults) = &made {
            tracing::error!(
                server = tool.server,
                tool = tool.name,
                "every call of this tool is denied: its policies do not fit its arguments: {}",
                load::join(faults)
            );
        }
        *self.made.write().unwrap_or_else(PoisonError::into_inner) = Some((tool.digest.clone(), made.clone()));
        made
    }

    fn make(&self, tool: &Tool) -> Made {
        let input = InputType::of_descriptor(&tool.descriptor);
        let schema = input.schema().map_err(|e| {
            vec![self.policies[0].fault(format!("the types of {}:{} cannot be made: {e}", tool.server, tool.name))]
        })?;
        let validator = Validator::new(schema.clone());
        let mut faults = Vec::new();
        for loaded in &self.policies {
            let mut set = PolicySet::new();
            if let Err(e) = set.add(loaded.policy.clone()) {
                faults.push(loaded.fault(e.to_string()));
            }
            // A guard such as `context.input has path` is false for ever where there is no `path`, and
            // a forbid behind it is void: that is a fault here.
            for name in loaded.input_names().into_iter().filter(|name| !input.has(name)) {
                let left = input.left_out.iter().find(|left| left.starts_with(&format!("{name:?}: ")));
                let cause = left.map_or_else(|| format!("has no {name:?}"), |left| format!("gives no type: {left}"));
                let message = format!("the inputSchema of {}:{} {cause}", tool.server, tool.name);
                faults.push(loaded.fault_of_argument(&name, message));
            }
            for error in validator.validate(&set, ValidationMode::Strict).validation_errors() {
                let mut fault = loaded.fault_at(error);
                fault.message.push_str(&format!("; so says the inputSchema of {}:{}", tool.server, tool.name));
                faults.push(fault);
            }
        }
        if faults.is_empty() { Ok(Arc::new(Types { schema, input })) } else { Err(faults) }
    }
}

fn place(policy: &Policy) -> Option<EntityUid> {
    match policy.resource_constraint() {
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => Some(uid),
        ResourceConstraint::Any | ResourceConstraint::Is(_) => match policy.principal_constraint() {
            // Nothing is a parent of an agent, so that `in` is `==`.
            PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
                Some(uid)
            }
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
        },
    }
}
