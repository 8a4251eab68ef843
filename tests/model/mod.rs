//! The account against its model: random sequences of everything that can happen to an account,
//! jumps of the clock included, done to a real Redis and to plain Rust, and compared after every
//! step.
//!
//! `IMG2TEXT_MODEL_STEPS` sets how many steps are done (default 100,000) and
//! `IMG2TEXT_MODEL_SEED` repeats a run whose seed a failure has printed.

mod rules;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use img2text::quota::catalog::{Free, Period, Plan};
use img2text::quota::{
    Answered, Bucket, Catalog, Charge, Charged, Error, PaymentId, Quota, RequestId, State, Work,
};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::support::account::{Account, START_MS, id};
use crate::support::redis;
use rules::{Outcome, Rules, next_month_s, total};

/// Something that can happen to an account. Ids are few, so that they meet again.
#[derive(Clone, Debug)]
enum Step {
    Get,
    Reserve {
        id: u8,
        amount: i64,
        ttl_s: i64,
        only_validate: bool,
    },
    Commit {
        id: u8,
        amount: Option<i64>,
    },
    Release {
        id: u8,
    },
    Extend {
        id: u8,
        ttl_s: i64,
    },
    Charge {
        request: u8,
        fingerprint: u8,
    },
    Finish {
        request: u8,
        commit: bool,
    },
    Activate {
        payment: u8,
        plan: &'static str,
    },
    Grant {
        payment: u8,
        amount: i64,
    },
    Adjust {
        payment: u8,
        bucket: usize,
        delta: i64,
    },
    Cancel,
    /// Time passes.
    Wait {
        ms: i64,
    },
    /// Time passes to the start of the next month, or a millisecond before or after.
    WaitForMonth {
        off_by_ms: i64,
    },
    /// Somebody writes into the old system's hash.
    Write {
        field: &'static str,
        value: i64,
    },
    WritePlan {
        plan: &'static str,
    },
    /// Somebody deletes it.
    Erase,
    /// The catalog says something else from now on.
    Catalog {
        free_allowance: i64,
        free_monthly: bool,
    },
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 0..8u8;
    let ttl = || prop_oneof![Just(1i64), Just(60), Just(3_600)];
    let plan = || prop_oneof![Just("10"), Just("30"), Just("gold")];
    prop_oneof![
        4 => Just(Step::Get),
        20 => (id(), 1..8i64, ttl(), proptest::bool::weighted(0.1)).prop_map(
            |(id, amount, ttl_s, only_validate)| Step::Reserve { id, amount, ttl_s, only_validate }
        ),
        12 => (id(), proptest::option::of(0..8i64))
            .prop_map(|(id, amount)| Step::Commit { id, amount }),
        8 => id().prop_map(|id| Step::Release { id }),
        4 => (id(), ttl()).prop_map(|(id, ttl_s)| Step::Extend { id, ttl_s }),
        8 => (0..3u8, 0..2u8)
            .prop_map(|(request, fingerprint)| Step::Charge { request, fingerprint }),
        6 => (0..3u8, any::<bool>()).prop_map(|(request, commit)| Step::Finish { request, commit }),
        4 => (0..6u8, plan()).prop_map(|(payment, plan)| Step::Activate { payment, plan }),
        4 => (0..6u8, 1..20i64).prop_map(|(payment, amount)| Step::Grant { payment, amount }),
        3 => (0..6u8, 0..3usize, prop_oneof![-9..=-1i64, 1..9i64])
            .prop_map(|(payment, bucket, delta)| Step::Adjust { payment, bucket, delta }),
        1 => Just(Step::Cancel),
        8 => prop_oneof![
            Just(1i64), Just(999), Just(1_000), Just(60_000), Just(600_000), Just(3_600_000),
            Just(86_400_000), 1..200_000_000i64
        ].prop_map(|ms| Step::Wait { ms }),
        3 => (-1..=1i64).prop_map(|off_by_ms| Step::WaitForMonth { off_by_ms }),
        3 => (
            prop_oneof![
                Just("plan_remaining"), Just("extra_remaining"), Just("free_used"),
                Just("next_reset_ts")
            ],
            prop_oneof![-3..15i64, Just(1_906_502_400i64)],
        ).prop_map(|(field, value)| Step::Write { field, value }),
        1 => prop_oneof![Just("10"), Just("gold"), Just("none")]
            .prop_map(|plan| Step::WritePlan { plan }),
        1 => Just(Step::Erase),
        1 => (0..6i64, any::<bool>()).prop_map(|(free_allowance, free_monthly)| {
            Step::Catalog { free_allowance, free_monthly }
        }),
    ]
}

/// A sequence of steps; in one of eight the account is deleted somewhere.
fn sequence() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![
        7 => vec(step(), 1..250),
        1 => vec(prop_oneof![40 => step(), 1 => Just(Step::Delete)], 1..250),
    ]
}

const BUCKETS: [Bucket; 3] = [Bucket::Free, Bucket::Plan, Bucket::Extra];

fn rules() -> Rules {
    Rules {
        free_allowance: 3,
        free_monthly: false,
        plans: BTreeMap::from([("10", 10), ("30", 30)]),
        holds_open_max: 4,
        payments_max: 5,
        settled_ttl_ms: 3_600_000,
        answer_ttl_ms: 600_000,
        charge_ttl_ms: 60_000,
    }
}

fn configure(rules: &Rules, settings: &mut img2text::config::Quota, catalog: &mut Catalog) {
    settings.holds_open_max = rules.holds_open_max as u32;
    settings.payments_max = rules.payments_max as u32;
    settings.settled_reservation_ttl_ms = rules.settled_ttl_ms as u64;
    settings.answer_ttl_ms = rules.answer_ttl_ms as u64;
    settings.hold_ttl_ms_default = rules.charge_ttl_ms as u64;
    // Small, so that entries fold all the time.
    settings.history_entries_max = 16;
    let period = if rules.free_monthly { Period::Monthly } else { Period::Lifetime };
    catalog.free = Free { allowance: rules.free_allowance as u64, period };
    let plan = |(name, quota): (&&str, &i64)| (name.to_string(), Plan { quota: *quota as u64 });
    catalog.plans = rules.plans.iter().map(plan).collect();
}

/// The account and its model, side by side.
struct Pair {
    real: Account,
    model: rules::Account,
    /// Recognitions that are running, by request, with the model's name of their hold.
    charges: HashMap<u8, (Charge, String)>,
    charged: u32,
}

impl Pair {
    async fn new(client: &fred::clients::Client) -> Self {
        let rules = rules();
        let real = Account::of(client, |settings, catalog| configure(&rules, settings, catalog));
        let model = rules::Account::new(rules, START_MS as i64);
        Self { real, model, charges: HashMap::new(), charged: 0 }
    }

    /// Does the step to both; an error says how they differ.
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Wait { ms } => self.wait_until(self.model.now_ms + ms),
            Step::WaitForMonth { off_by_ms } => {
                let month_ms = next_month_s(self.model.now_ms) * 1000;
                self.wait_until(self.model.now_ms.max(month_ms + off_by_ms));
            }
            Step::Write { field, value } => self.write(field, *value).await,
            Step::WritePlan { plan } => {
                self.real.write(&[("plan", plan)]).await;
                self.model.fields.plan = (*plan != "none").then(|| plan.to_string());
                self.model.written = true;
            }
            Step::Erase => {
                redis::command(&self.real.client, "DEL", &[&self.real.main_key()]).await;
                self.model.fields = rules::Fields::default();
                self.model.written = false;
            }
            Step::Catalog { free_allowance, free_monthly } => {
                // A server that is restarted with another catalog has brought its calls to an end.
                for request in self.charges.keys().copied().collect::<Vec<_>>() {
                    self.finish(request, true).await?;
                }
                self.model.rules.free_allowance = *free_allowance;
                self.model.rules.free_monthly = *free_monthly;
                let rules = self.model.rules.clone();
                self.real.change(|settings, catalog| configure(&rules, settings, catalog));
            }
            Step::Finish { request, commit } => self.finish(*request, *commit).await?,
            Step::Charge { request, fingerprint } => self.charge(*request, *fingerprint).await?,
            step => {
                let (outcome, quota) = self.real_outcome(step).await;
                compare("outcome", &outcome, &self.model_outcome(step))?;
                if let Some(quota) = quota {
                    self.compare_quota(&quota)?;
                }
            }
        }
        compare("audit", &self.real.store.audit(&self.real.user).await.unwrap(), &vec![])
    }

    fn wait_until(&mut self, now_ms: i64) {
        self.real.advance(Duration::from_millis((now_ms - self.model.now_ms) as u64));
        self.model.now_ms = now_ms;
    }

    async fn write(&mut self, field: &str, value: i64) {
        self.real.write(&[(field, &value.to_string())]).await;
        let fields = &mut self.model.fields;
        match field {
            "plan_remaining" => fields.plan_remaining = value,
            "extra_remaining" => fields.extra_remaining = value,
            "free_used" => fields.free_used = value,
            _ => fields.next_reset_s = value,
        }
        self.model.written = true;
    }

    async fn real_outcome(&self, step: &Step) -> (Outcome, Option<Quota>) {
        let (store, user) = (&self.real.store, &self.real.user);
        let name = |id_number: &u8| id(&format!("r{id_number}"));
        let payment = |number: &u8| PaymentId::parse(format!("p{number}")).unwrap();
        let hold = |hold: img2text::quota::Reservation| {
            let held = hold.held;
            let [free, plan, extra] = [held.free, held.plan, held.extra].map(|n| n as i64);
            vec![free, plan, extra, hold.expires.as_millisecond()]
        };
        let moved = |movement: img2text::quota::history::Movement| {
            [numbers(movement.granted), numbers(movement.lapsed)].concat()
        };
        let seconds = |ttl_s: &i64| Duration::from_secs(*ttl_s as u64);
        match step {
            Step::Get => answer(
                store.get(user).await.map(|quota| Answered { value: (), quota, replayed: false }),
                |()| vec![],
            ),
            Step::Reserve { id, amount, ttl_s, only_validate } => {
                let ttl = seconds(ttl_s);
                let held =
                    store.reserve(user, &name(id), *amount as u64, ttl, *only_validate).await;
                answer(held, hold)
            }
            Step::Commit { id, amount } => {
                let amount = amount.map(|amount| amount as u64);
                answer(store.commit(user, &name(id), amount).await, numbers)
            }
            Step::Release { id } => answer(store.release(user, &name(id), "").await, |()| vec![]),
            Step::Extend { id, ttl_s } => {
                answer(store.extend(user, &name(id), seconds(ttl_s)).await, hold)
            }
            Step::Activate { payment: number, plan } => {
                answer(store.activate_plan(user, plan, &payment(number)).await, moved)
            }
            Step::Grant { payment: number, amount } => {
                answer(store.grant_extra(user, *amount as u64, &payment(number)).await, moved)
            }
            Step::Adjust { payment: number, bucket, delta } => {
                let (bucket, payment) = (BUCKETS[*bucket], payment(number));
                answer(store.adjust(user, bucket, *delta, "test", &payment).await, moved)
            }
            Step::Cancel => answer(store.cancel_plan(user).await, |()| vec![]),
            Step::Delete => {
                let outcome = match store.delete(user).await {
                    Ok(replayed) => Outcome::Done { replayed, numbers: vec![] },
                    Err(error) => Outcome::Refused(reason(&error)),
                };
                (outcome, None)
            }
            other => unreachable!("{other:?} is done elsewhere"),
        }
    }

    fn model_outcome(&mut self, step: &Step) -> Outcome {
        let model = &mut self.model;
        let payment = |number: &u8| format!("p{number}");
        match step {
            Step::Get => match model.get() {
                Some(_) => Outcome::Done { replayed: false, numbers: vec![] },
                None => Outcome::Refused("deleted"),
            },
            Step::Reserve { id, amount, ttl_s, only_validate } => {
                model.reserve(&format!("r{id}"), *amount, ttl_s * 1000, *only_validate)
            }
            Step::Commit { id, amount } => model.commit(&format!("r{id}"), *amount),
            Step::Release { id } => model.release(&format!("r{id}")),
            Step::Extend { id, ttl_s } => model.extend(&format!("r{id}"), ttl_s * 1000),
            Step::Activate { payment: number, plan } => {
                model.purchase("activate", &payment(number), plan, rules::PLAN, 0)
            }
            Step::Grant { payment: number, amount } => {
                model.purchase("grant", &payment(number), "", rules::EXTRA, *amount)
            }
            Step::Adjust { payment: number, bucket, delta } => {
                model.purchase("adjust", &payment(number), "", *bucket, *delta)
            }
            Step::Cancel => model.cancel(),
            Step::Delete => model.delete(),
            other => unreachable!("{other:?} is done elsewhere"),
        }
    }

    /// Starts a recognition. One whose hold is over makes way first, as a caller would whose
    /// server took too long.
    async fn charge(&mut self, request: u8, fingerprint: u8) -> Result<(), String> {
        self.finish(request, true).await.map_err(|error| format!("the one before: {error}"))?;
        let name = format!("charge{}", self.charged);
        self.charged += 1;
        let expected = self.model.charge(&name, request, fingerprint);
        let request_id = RequestId::parse(format!("q{request}")).unwrap();
        let charged =
            self.real.store.charge(&self.real.user, Some(&request_id), [fingerprint; 32]).await;
        let outcome = match charged {
            Ok(Charged::New(charge)) => {
                self.charges.insert(request, (charge, name.clone()));
                let hold = self.model.holds.get(&name);
                let expected = hold.map(|hold| hold.expires_ms);
                compare("a hold in the model", &expected.is_some(), &true)?;
                return self.compare_get().await;
            }
            Ok(Charged::Answered(stored)) => {
                compare("answer", &&stored.answer[..], &format!("text {request}").as_bytes())?;
                self.compare_quota(&stored.quota)?;
                Outcome::Done { replayed: true, numbers: numbers(stored.spent) }
            }
            Err(error) => Outcome::Refused(reason(&error)),
        };
        compare("charge", &outcome, &expected)
    }

    /// Ends a recognition, if one is running.
    async fn finish(&mut self, request: u8, commit: bool) -> Result<(), String> {
        let Some((charge, name)) = self.charges.remove(&request) else { return Ok(()) };
        if !commit {
            charge.release().await;
            self.model.release(&name);
            return self.compare_get().await;
        }
        let answer = format!("text {request}");
        let settled = charge.commit(Work::default(), Some(answer.into())).await;
        let state = match self.model.commit(&name, None) {
            Outcome::Done { .. } => State::Confirmed,
            Outcome::Refused(_) => State::Lapsed,
        };
        compare("charge", &settled.state, &state)?;
        self.compare_get().await
    }

    async fn compare_get(&mut self) -> Result<(), String> {
        let (outcome, quota) = self.real_outcome(&Step::Get).await;
        compare("get", &outcome, &self.model_outcome(&Step::Get))?;
        quota.map_or(Ok(()), |quota| self.compare_quota(&quota))
    }

    fn compare_quota(&mut self, quota: &Quota) -> Result<(), String> {
        // What is due was done by the step; a stranger is shown what he would have.
        let model = self.model.get().ok_or("the model's account is deleted")?;
        compare("available", &numbers(quota.available), &model.available().to_vec())?;
        compare("held", &numbers(quota.held), &model.held().to_vec())?;
        compare("granted", &numbers(quota.granted), &model.granted.to_vec())?;
        compare("spent", &numbers(quota.spent), &model.spent.to_vec())?;
        compare("lapsed", &numbers(quota.lapsed), &model.lapsed.to_vec())?;
        compare("allotted", &(quota.allotted as i64), &model.allotted)?;
        let plan = model.fields.plan.clone().unwrap_or_default();
        compare("plan", &(&quota.plan, quota.plan_cancelled), &(&plan, model.cancelled))?;
        compare("next reset", &quota.next_reset.as_second(), &model.fields.next_reset_s)?;
        let near = model.allotted > 0 && total(model.available()) * 100 <= model.allotted * 20;
        compare("near limit", &quota.near_limit, &near)?;
        let sum = quota.available + quota.held + quota.spent + quota.lapsed;
        compare("the invariant", &sum, &quota.granted)
    }
}

fn compare<T: PartialEq + std::fmt::Debug>(what: &str, real: &T, model: &T) -> Result<(), String> {
    if real == model { Ok(()) } else { Err(format!("{what}: Redis {real:?}, model {model:?}")) }
}

fn numbers(buckets: img2text::quota::Buckets) -> Vec<i64> {
    vec![buckets.free as i64, buckets.plan as i64, buckets.extra as i64]
}

fn answer<T>(
    answered: Result<Answered<T>, Error>,
    numbers: impl FnOnce(T) -> Vec<i64>,
) -> (Outcome, Option<Quota>) {
    match answered {
        Ok(Answered { value, quota, replayed }) => {
            (Outcome::Done { replayed, numbers: numbers(value) }, Some(quota))
        }
        Err(error) => (Outcome::Refused(reason(&error)), None),
    }
}

fn reason(error: &Error) -> &'static str {
    match error {
        Error::Exhausted { .. } => "exhausted",
        Error::AlreadyExists => "exists",
        Error::NotFound => "not found",
        Error::AlreadyCommitted => "committed",
        Error::AlreadyReleased => "released",
        Error::Expired => "expired",
        Error::AmountExceedsHeld { .. } => "exceeds",
        Error::InProgress { .. } => "in progress",
        Error::TooManyHolds { .. } => "too many holds",
        Error::TooManyReservations { .. } => "too many reservations",
        Error::TooManyPayments { .. } => "too many payments",
        Error::UnknownPlan { .. } => "unknown plan",
        Error::NoPlan => "no plan",
        Error::NoAccount => "no account",
        Error::AccountDeleted => "deleted",
        other => panic!("{other}"),
    }
}

/// Does sequences until so many steps are done. On failure the sequence is shrunk to the shortest
/// that fails, and printed with the seed.
fn run(url: &str, seed: u64, steps: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = runtime.block_on(redis::connect(url));
    let config = Config {
        cases: u32::MAX,
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let done = Cell::new(0);
    while done.get() < steps {
        let tree = proptest::strategy::Strategy::new_tree(&sequence(), &mut runner).unwrap();
        let outcome = runner.run_one(tree, |sequence| {
            done.set(done.get() + sequence.len() as u64);
            runtime.block_on(check(&client, &sequence)).map_err(TestCaseError::fail)
        });
        match outcome {
            Ok(_) => {}
            Err(TestError::Fail(reason, sequence)) => {
                panic!("IMG2TEXT_MODEL_SEED={seed}: {reason}\nafter {sequence:#?}")
            }
            Err(error) => panic!("IMG2TEXT_MODEL_SEED={seed}: {error}"),
        }
    }
}

async fn check(client: &fred::clients::Client, sequence: &[Step]) -> Result<(), String> {
    let mut pair = Pair::new(client).await;
    for (number, step) in sequence.iter().enumerate() {
        pair.step(step).await.map_err(|error| format!("step {number}, {step:?}: {error}"))?;
    }
    for (charge, _) in pair.charges.into_values() {
        charge.release().await;
    }
    Ok(())
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number")),
        Err(_) => default,
    }
}

/// Each thread with a seed of its own, so that both cores have something to do.
fn run_on_threads(url: String, steps: u64) {
    let random = uuid::Uuid::new_v4().as_u64_pair().0;
    let seed = setting("IMG2TEXT_MODEL_SEED", random);
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let url = url.clone();
            std::thread::spawn(move || run(&url, seed.wrapping_add(number), steps / 4))
        })
        .collect();
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_account_does_what_its_model_does_standalone() {
    // Durability is tested elsewhere; here it would only cost time.
    let server = redis::Redis::start_in_memory();
    run_on_threads(server.url(), setting("IMG2TEXT_MODEL_STEPS", 100_000));
}

#[test]
fn the_account_does_what_its_model_does_on_a_cluster() {
    run_on_threads(redis::shared::cluster(), setting("IMG2TEXT_MODEL_STEPS", 100_000) / 10);
}
