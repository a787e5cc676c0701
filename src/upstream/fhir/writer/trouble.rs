//! The sentences for clinic IT about what a receiver does with our resources.

use crate::spool::Reason;
use crate::upstream::Trouble;
use crate::upstream::fhir::r4::ResourceType;

pub(super) fn untimed() -> Trouble {
    Trouble {
        code: "untrusted_clock",
        what: "records were read while the date of this computer was not to be trusted".to_owned(),
        remedy: "set its clock and see to its time server; these records are kept and not sent with a wrong time",
    }
}

pub(super) fn not_taken_back(reason: Reason) -> Trouble {
    Trouble {
        code: "correction_refused",
        what: format!("the receiver refuses to have a wrong chart corrected ({})", words(reason)),
        remedy: "have it accept `entered-in-error` under the same id; the wrong chart stays wrong until then",
    }
}

pub(super) fn refusal_in_doubt() -> Trouble {
    Trouble {
        code: "refusal_in_doubt",
        what: "the receiver refuses a record, and has answered too little since to tell whether it refuses everything"
            .to_owned(),
        remedy: "nothing to do if it ends; the record is kept until more was sent",
    }
}

pub(super) fn refused_need(stage: ResourceType, reason: Reason) -> Trouble {
    Trouble {
        code: "treatment_refused",
        what: format!("the receiver refuses a {} of ours ({})", stage.as_str(), words(reason)),
        remedy: "have the receiver accept it, or leave the type out of `resources`",
    }
}

fn words(reason: Reason) -> String {
    let issue = reason.issue.map(|issue| format!(", {issue}")).unwrap_or_default();
    format!("{}{issue}", reason.status)
}

pub(super) fn machine_refused(stage: ResourceType, reason: Reason) -> Trouble {
    Trouble {
        code: "machine_refused",
        what: format!("the receiver refuses our {} resources ({})", stage.as_str(), words(reason)),
        remedy: "have the receiver accept them, or leave the type out of `resources`",
    }
}

pub(super) fn not_settled(stage: ResourceType) -> Trouble {
    Trouble {
        code: "busy",
        what: format!("the receiver has not taken our {} resources yet", stage.as_str()),
        remedy: "nothing to do if it ends; everything is kept until then",
    }
}
