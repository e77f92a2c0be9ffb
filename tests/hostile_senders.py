"""Senders that mean harm to `diagnet listen`, or are only careless; benchmarks/attack.py uses them too."""

import socket
import ssl
import struct
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, _config, evt

from diagnet.clinic.forward import end_in_time

ENDS = [(evt.EVT_CONN_OPEN, end_in_time)]  # or a listener that is under attack could hold its attacker up for ever
VERIFICATION = "1.2.840.10008.1.1"


def silent(port, n=1):
    """Connections that never say a word."""
    return [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(n)]


def half_request(port, n=1):
    """Connections that send the first half of a request for an association."""
    found = silent(port, n)
    for each in found:
        each.sendall(b"\x01\x00" + struct.pack(">L", 200) + bytes(100))
    return found


def idle(port, n, title="DIAGNET"):
    """Associations that are established and then say nothing."""
    entity = AE("IDLER")
    entity.add_requested_context(VERIFICATION)
    return [entity.associate("127.0.0.1", port, ae_title=title, evt_handlers=ENDS) for _ in range(n)]


def half_pdu(associations):
    """Begin a PDU of 100 kB on each association, and stop."""
    for each in associations:
        with suppress(OSError, AttributeError):  # one that was ended already
            each.dul.socket.socket.sendall(b"\x04\x00" + struct.pack(">L", 100_000) + bytes(50))


def huge_pdu(association):
    """Announce a PDU of 4 GB and send its first 20 MB; whether the listener let it."""
    try:
        association.dul.socket.socket.sendall(b"\x04\x00" + struct.pack(">L", 0xFFFFFFFF))
        for _ in range(20):
            association.dul.socket.socket.sendall(bytes(1_000_000))
            time.sleep(0.01)
    except OSError:
        return False
    return True


def malformed_pdu(association):
    """Send a data PDU whose item names a presentation context that was never agreed, and no command."""
    item = struct.pack(">LB", 6, 253) + b"\x03\x01\x02\x03\x04"
    association.dul.socket.socket.sendall(b"\x04\x00" + struct.pack(">L", len(item)) + item)


@contextmanager
def trickling(associations, every=0.2):
    """Send one byte of a PDU of 100 kB from time to time on each association."""
    stop = threading.Event()
    half_pdu(associations)

    def trickle():
        while not stop.wait(every):
            for each in associations:
                try:
                    each.dul.socket.socket.sendall(b"\0")
                except (OSError, AttributeError):
                    continue

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def echo(port, title="DIAGNET", context=None, patience=10.0):
    """Seconds until an innocent sender has its answer; it asks again where it is turned away."""
    entity = AE("INNOCENT")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = patience
    entity.add_requested_context(VERIFICATION)
    began = time.monotonic()
    while time.monotonic() - began < patience:
        tls = None if context is None else (context, "127.0.0.1")
        association = entity.associate("127.0.0.1", port, ae_title=title, tls_args=tls, evt_handlers=ENDS)
        if association.is_established:
            status = association.send_c_echo().get("Status")
            association.release()
            if status == 0:
                return time.monotonic() - began
        time.sleep(0.05)
    return float("inf")


def store(port, path, *, negotiated=None, title="DIAGNET", chunk=None):
    """C-STORE one file; its status. `negotiated`: the SOP class that is agreed and announced instead of the file's."""
    dataset = dcmread(path)
    entity = AE("SENDER")
    entity.add_requested_context(negotiated or dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title=title, max_pdu=chunk or 16382, evt_handlers=ENDS)
    if not association.is_established:
        return "rejected"
    try:
        if negotiated is None:
            return association.send_c_store(dataset).get("Status")
        return _announced(association, dataset, negotiated)
    finally:
        association.release()


def _announced(association, dataset, sop_class):
    """Store an object under the name of another SOP class."""
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, dataset.SOPInstanceUID
    context = association.accepted_contexts[0]
    syntax = context.transfer_syntax[0]
    request.DataSet = BytesIO(encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian))
    association._reactor_checkpoint.clear()
    while association.is_established and not association._is_paused:
        time.sleep(0.01)
    association.dimse.send_msg(request, context.context_id)
    answer = association.dimse.get_msg(block=True)[1]
    association._reactor_checkpoint.set()
    return None if answer is None else answer.Status


def half_object(port, sop_class, n_bytes, n=1):
    """Begin an object of `n_bytes` on each of some associations, then cut the line; returns when all are cut."""
    with ExitStack() as stack:
        for number in range(n):
            entity = AE("HALF")
            entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
            association = entity.associate("127.0.0.1", port, ae_title="DIAGNET", evt_handlers=ENDS)
            stack.callback(association.abort)
            line = association.dul.socket.socket
            line.sendall(_data(1, 0x03, _store_command(sop_class, f"1.2.3.{number}")))
            for _ in range(n_bytes // 10_000):
                line.sendall(_data(1, 0x00, bytes(10_000)))
        time.sleep(0.3)


def _data(context, control, content):
    item = struct.pack(">LBB", len(content) + 2, context, control) + content
    return b"\x04\x00" + struct.pack(">L", len(item)) + item


def _store_command(sop_class, uid):
    from pydicom.dataset import Dataset
    from pynetdicom.dsutils import encode

    command = Dataset()
    command.AffectedSOPClassUID, command.CommandField, command.MessageID = sop_class, 0x0001, 1
    command.Priority, command.CommandDataSetType, command.AffectedSOPInstanceUID = 2, 1, uid
    command.CommandGroupLength = len(encode(command, True, True))
    return encode(command, True, True)


def tls_client(authority):
    """How an innocent sender speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    return context


_config.LOG_HANDLER_LEVEL = "none"  # they say much, which is no news here
