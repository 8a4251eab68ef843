"""A client in another language: Python's grpcio, with stubs made from the contract.

Usage: python_client.py PROTO_DIR ADDRESS PICTURE

Makes the stubs in a temporary directory, walks through the main job as a sibling service would,
and prints what it saw as one JSON object.
"""

import json
import pathlib
import sys
import tempfile

import grpc
from google.protobuf import duration_pb2
from grpc_tools import protoc


def make_stubs(proto_dir: str, out: str) -> None:
    files = [str(path) for path in pathlib.Path(proto_dir).rglob("*.proto")]
    bundled = str(pathlib.Path(protoc.__file__).parent / "_proto")
    arguments = ["protoc", f"-I{proto_dir}", f"-I{bundled}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(arguments + files) != 0:
        sys.exit("the stubs cannot be made")
    sys.path.insert(0, out)


def main() -> None:
    proto_dir, address, picture = sys.argv[1:]
    with tempfile.TemporaryDirectory() as out:
        make_stubs(proto_dir, out)
        from img2text.v1 import quota_pb2, quota_pb2_grpc, recognize_pb2, recognize_pb2_grpc

        seen = {}
        with grpc.insecure_channel(address) as channel:
            quota = quota_pb2_grpc.QuotaServiceStub(channel)
            recognize = recognize_pb2_grpc.RecognizeServiceStub(channel)

            answer = recognize.Recognize(
                recognize_pb2.RecognizeRequest(
                    image=pathlib.Path(picture).read_bytes(),
                    user_id="python",
                    request_id="one",
                    languages=["eng"],
                ),
                timeout=60,
            )
            seen["text"] = answer.text
            seen["charge"] = recognize_pb2.ChargeState.Name(answer.charge.state)
            seen["left"] = answer.quota.available.free

            hold = quota.ReserveQuota(
                quota_pb2.ReserveQuotaRequest(
                    user_id="python", reservation_id="two", amount=1, ttl=duration_pb2.Duration(seconds=30)
                )
            )
            seen["held"] = hold.quota.held.free
            spent = quota.CommitReservation(
                quota_pb2.CommitReservationRequest(user_id="python", reservation_id="two")
            )
            seen["spent"] = spent.quota.spent.free

            try:
                quota.ReserveQuota(
                    quota_pb2.ReserveQuotaRequest(user_id="python", reservation_id="three", amount=5)
                )
            except grpc.RpcError as error:
                seen["refusal"] = error.code().name
        print(json.dumps(seen))


if __name__ == "__main__":
    main()
