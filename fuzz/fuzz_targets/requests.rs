//! Requests of every method from any bytes: none makes the decoder panic or take more than there
//! is, and what is decoded means the same after it was encoded again.
#![no_main]

use std::collections::BTreeSet;
use std::sync::LazyLock;

use img2text::grpc::proto::*;
use img2text::quota::{RequestId, ReservationId, UserId};
use libfuzzer_sys::fuzz_target;
use prost::Message;

type Check = fn(&[u8]);

macro_rules! checks {
    ($($request:ident),* $(,)?) => {
        &[$((stringify!($request), check::<$request> as Check)),*]
    };
}

/// The requests of all methods.
const CHECKS: &[(&str, Check)] = checks![
    ActivatePlanRequest,
    AdjustQuotaRequest,
    AuditAccountsRequest,
    CancelPlanRequest,
    CommitReservationRequest,
    DeleteAccountRequest,
    ExportAccountRequest,
    ExtendReservationRequest,
    ForceReleaseReservationRequest,
    GetQuotaRequest,
    GetStatisticsRequest,
    GetStorageStatusRequest,
    GetUsageRequest,
    GrantExtraRequestsRequest,
    ListHistoryRequest,
    ListLanguagesRequest,
    ListPlansRequest,
    ListReservationsRequest,
    ListUsersRequest,
    RecognizeDocumentRequest,
    RecognizeRequest,
    RecognizeStreamRequest,
    ReleaseReservationRequest,
    ReserveQuotaRequest,
];

fn check<T: Message + Default>(bytes: &[u8]) {
    let Ok(request) = T::decode(bytes) else { return };
    let encoded = request.encode_to_vec();
    let again = T::decode(&*encoded).expect("what was encoded can be decoded");
    assert_eq!(encoded, again.encode_to_vec());
}

/// A method that is added to the contract is to be added here.
static COMPLETE: LazyLock<()> = LazyLock::new(|| {
    let descriptors = prost_types::FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors");
    let files = descriptors.file.iter().filter(|file| file.package() == "img2text.v1");
    let methods = files.flat_map(|file| &file.service).flat_map(|service| &service.method);
    let inputs: BTreeSet<_> =
        methods.map(|method| method.input_type().rsplit('.').next().unwrap_or_default()).collect();
    let checked: BTreeSet<_> = CHECKS.iter().map(|(name, _)| *name).collect();
    assert_eq!(inputs, checked, "a request without a check, or the other way round");
});

fuzz_target!(|bytes: &[u8]| {
    LazyLock::force(&COMPLETE);
    let Some((first, rest)) = bytes.split_first() else { return };
    let (_, check) = CHECKS[usize::from(*first) % CHECKS.len()];
    check(rest);
    // The ids that stand in them are parts of the keys in Redis.
    if let Ok(text) = std::str::from_utf8(rest) {
        let key = |id: &str| id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'{' && byte != b'}');
        let ids = [
            UserId::parse(text).map(|id| key(id.as_str())),
            RequestId::parse(text).map(|id| key(&id.to_string())),
            ReservationId::parse(text).map(|id| key(&id.to_string())),
        ];
        assert!(ids.into_iter().all(|id| id.unwrap_or(true)), "{text:?} would be a key");
    }
});
