//! What people at the site said of one study, and what follows from it.

use consilium_common::time::WallMillis;
use serde::{Deserialize, Serialize};

use super::{Judgement, Person};
use crate::session::Decision;
use consilium_common::wire::reject::Code;

/// One person's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// Who says so, by their own word.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The account on this machine under which it was said.
    pub account: String,
    /// When.
    pub at: WallMillis,
}

/// What people decided about the exact bytes of one study. A refusal takes back every acceptance
/// before it, an acceptance takes back the refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form")]
pub struct Decided {
    /// 2; without it a file is of the first form, of one word without a reason.
    pub format: u32,
    /// Who accepted it, each person once.
    pub accepted: Vec<Said>,
    /// Who refused it.
    pub refused: Option<Said>,
}

/// Both forms of a decision's file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Present(Present),
    First(First),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Present {
    format: u32,
    accepted: Vec<Said>,
    refused: Option<Said>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    person: Person,
    at: WallMillis,
    by: String,
}

impl TryFrom<Form> for Decided {
    type Error = String;
    fn try_from(form: Form) -> Result<Self, String> {
        match form {
            Form::Present(Present { format: 2, accepted, refused }) => {
                Ok(Self { format: 2, accepted, refused })
            }
            Form::Present(Present { format, .. }) => {
                Err(format!("a decision in format {format}, this release reads 2"))
            }
            Form::First(First { person, at, by }) => {
                let said = Said { by, reason: String::new(), account: String::new(), at };
                Ok(Self::default().with(person, said))
            }
        }
    }
}

impl Decided {
    /// The same after one more word. Who says the same again changes nothing but the reason.
    #[must_use]
    pub fn with(mut self, person: Person, said: Said) -> Self {
        self.format = 2;
        match person {
            Person::Accepted => {
                self.refused = None;
                match self.accepted.iter_mut().find(|other| same_person(&other.by, &said.by)) {
                    Some(own) => *own = said,
                    None => self.accepted.push(said),
                }
            }
            Person::Refused => {
                self.accepted.clear();
                self.refused = Some(said);
            }
        }
        self
    }

    /// Whether so many different people have accepted it, and none has refused it since.
    #[must_use]
    pub fn is_accepted(&self, needed: usize) -> bool {
        self.refused.is_none() && self.accepted.len() >= needed.max(1)
    }

    /// In words: by whom, and what is still missing.
    #[must_use]
    pub fn in_words(&self, needed: usize) -> String {
        let word = |said: &Said| match said.reason.as_str() {
            "" => said.by.clone(),
            reason => format!("{} ({reason})", said.by),
        };
        if let Some(refused) = &self.refused {
            return format!("refused by {}", word(refused));
        }
        let people: Vec<String> = self.accepted.iter().map(word).collect();
        let have = people.len();
        match have {
            0 => "undecided".to_owned(),
            _ if have >= needed => format!("accepted by {}", people.join(" and ")),
            _ => format!("accepted by {}: {have} of {needed} people", people.join(" and ")),
        }
    }
}

/// Joins judgement and people: enough of them can accept what needs a person, one can refuse
/// anything; nobody accepts what the policy refuses.
#[must_use]
pub fn decide(judgement: &Judgement, decided: Option<&Decided>, needed: usize) -> Decision {
    let refused = decided.is_some_and(|decided| decided.refused.is_some());
    let accepted = decided.is_some_and(|decided| decided.is_accepted(needed));
    match judgement {
        Judgement::Refused(refusal) => Decision::Refused { code: refusal.code },
        _ if refused => Decision::Refused { code: Code::RefusedBySite },
        Judgement::Allowed => Decision::Accepted,
        Judgement::NeedsPerson if accepted => Decision::Accepted,
        Judgement::NeedsPerson => Decision::NeedsPerson,
    }
}

/// Names are compared without case and without regard to blanks: who types the own name in another
/// way is not a second person.
#[must_use]
pub fn same_person(one: &str, other: &str) -> bool {
    let plain = |name: &str| {
        let words: Vec<String> = name.split_whitespace().map(str::to_lowercase).collect();
        words.join(" ")
    };
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Refusal;

    fn said(by: &str) -> Said {
        let reason = "ethics vote EA1/123".to_owned();
        Said { by: by.to_owned(), reason, account: "agent".to_owned(), at: WallMillis(7) }
    }

    fn people(words: &[(Person, &str)]) -> Decided {
        let with =
            |decided: Decided, (person, by): &(Person, &str)| decided.with(*person, said(by));
        words.iter().fold(Decided::default(), with)
    }

    use Person::{Accepted as Yes, Refused as No};

    #[test]
    fn two_different_people_are_two_and_the_same_twice_is_one() {
        let once = people(&[(Yes, "Dr. Ada"), (Yes, " dr.  ADA ")]);
        assert!(once.is_accepted(1) && !once.is_accepted(2), "{once:?}");
        let both = people(&[(Yes, "Dr. Ada"), (Yes, "Ben")]);
        assert!(both.is_accepted(2) && !both.is_accepted(3));
        let words = "accepted by Dr. Ada (ethics vote EA1/123): 1 of 2 people";
        assert_eq!(people(&[(Yes, "Dr. Ada")]).in_words(2), words);
    }

    #[test]
    fn a_refusal_takes_back_all_acceptances_and_the_next_begins_anew() {
        let refused = people(&[(Yes, "Ada"), (Yes, "Ben"), (No, "Cy")]);
        assert!(!refused.is_accepted(1));
        assert_eq!(refused.in_words(2), "refused by Cy (ethics vote EA1/123)");
        let again = people(&[(Yes, "Ada"), (Yes, "Ben"), (No, "Cy"), (Yes, "Ada")]);
        assert!(again.is_accepted(1) && !again.is_accepted(2));
        assert!(!Decided::default().is_accepted(0), "nobody is never enough");
    }

    #[test]
    fn a_person_never_accepts_what_the_policy_refuses() {
        let refusal = Refusal { code: Code::Policy, sentence: "no".to_owned() };
        let refused = Judgement::Refused(refusal);
        let by_policy = Decision::Refused { code: Code::Policy };
        let by_site = Decision::Refused { code: Code::RefusedBySite };
        let (nobody, yes, no) = (None, Some(people(&[(Yes, "a")])), Some(people(&[(No, "a")])));
        let cases = [
            (&refused, &yes, 1, by_policy),
            (&refused, &nobody, 1, by_policy),
            (&Judgement::Allowed, &nobody, 1, Decision::Accepted),
            (&Judgement::Allowed, &yes, 1, Decision::Accepted),
            (&Judgement::Allowed, &no, 1, by_site),
            (&Judgement::NeedsPerson, &nobody, 1, Decision::NeedsPerson),
            (&Judgement::NeedsPerson, &yes, 1, Decision::Accepted),
            (&Judgement::NeedsPerson, &yes, 2, Decision::NeedsPerson),
            (&Judgement::NeedsPerson, &no, 1, by_site),
        ];
        for (judgement, decided, needed, decision) in cases {
            let found = decide(judgement, decided.as_ref(), needed);
            assert_eq!(found, decision, "{judgement:?} {decided:?} {needed}");
        }
    }

    #[test]
    fn the_first_form_of_the_file_is_read_and_a_later_one_named() {
        let old = r#"{"person":"accepted","at":7,"by":"ada (uid 1000)"}"#;
        let decided: Decided = serde_json::from_str(old).unwrap();
        assert!(decided.is_accepted(1));
        assert_eq!(decided.in_words(1), "accepted by ada (uid 1000)");
        let old = old.replace("accepted", "refused");
        assert!(serde_json::from_str::<Decided>(&old).unwrap().refused.is_some());
        let now = people(&[(Yes, "Ada")]);
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<Decided>(&text).unwrap(), now);
        let later = text.replace("\"format\":2", "\"format\":3");
        let told = serde_json::from_str::<Decided>(&later).unwrap_err().to_string();
        assert!(told.contains("format 3"), "{told}");
    }
}
