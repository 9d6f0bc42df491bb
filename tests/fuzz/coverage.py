"""How many lines of the decoders a run of tests/tests/fuzz.rs reached.

    export RUSTFLAGS="-Cinstrument-coverage -Cllvm-args=-enable-name-compression=false"
    export CARGO_TARGET_DIR=target/coverage LLVM_PROFILE_FILE=$PWD/target/coverage/fuzz.profraw
    cargo test -p consilium-tests --test fuzz no_input
    llvm-profdata merge target/coverage/fuzz.profraw -o target/coverage/fuzz.profdata
    llvm-cov export -format=lcov -instr-profile=target/coverage/fuzz.profdata TEST \
        | python3 tests/fuzz/coverage.py

TEST is the program that cargo named; the tools are those of rustc's LLVM (`rustc -vV`). Each line
without a hit is listed, then each file, then the sum.
"""

import pathlib
import re
import sys

# The functions of each file that hostile bytes go through; "" is all of it before its tests.
DECODERS = {
    "common/src/wire/codec.rs": "",
    "common/src/wire/frame.rs": "",
    "common/src/wire/messages.rs": "from_frame to_frame",
    "common/src/wire/reject.rs": "try_from is deserialize visit_str visit_u16 expecting",
    "common/src/hex_array.rs": "",
    "common/src/ids.rs": "",
    "common/src/le.rs": "",
    "common/src/audit/checkpoint.rs": "",
    "common/src/audit/receipt.rs": "",
    "common/src/audit/roll_call.rs": "",
    "common/src/audit/record.rs": "decode payload",
    "common/src/signed.rs": "verify check_sizes parse_unverified from_str verifies try_from",
    "common/src/config.rs": "parse parse_with_environment put_over set known value with_nearest "
    "nearest deserialize",
    "common/src/study/mod.rs": "read parse layout resolve to_text initial_model",
    "common/src/study/check.rs": "",
    "common/src/study/model/mod.rs": "try_from parameters layout classes initial",
    "common/src/study/model/cnn.rs": "",
    "common/src/study/model/synthetic.rs": "",
    "common/src/study/preparation/mod.rs": "decode read",
    "common/src/study/sections.rs": "",
    "common/src/tensor/layout.rs": "",
    "common/src/tensor/file.rs": "head_bytes read iter from_safetensors shape_of",
    "common/src/tensor/flat.rs": "check_model_header decode_model decode_f32 model_bytes_len",
    "common/src/update/sections.rs": "decode decode_i32 decode_words array reserved entry "
    "update_bytes_len",
    "common/src/update/words.rs": "of words_len get decode check",
    "common/src/worker/mod.rs": "from_line",
    "common/src/worker/source.rs": "",
    "common/io/src/net/transfer/header.rs": "read_request read_answer from_number",
    "common/io/src/net/transfer/mod.rs": "receive",
    "common/io/src/net/frames.rs": "next",
    "common/io/src/disk/log/record.rs": "",
    "common/io/src/disk/log/scan.rs": "",
    "common/io/src/disk/log/mod.rs": "open read read_at read_whole",
    "common/io/src/disk/text.rs": "read_text",
    "certs/src/identity.rs": "",
    "certs/src/validity.rs": "of_certificate",
    "certs/src/roster.rs": "parse checked",
    "certs/src/consortium.rs": "load checked",
    "certs/src/signed_file.rs": "load read_sig read_document",
    "certs/src/credentials.rs": "",
    "certs/src/keys.rs": "load load_public",
    "certs/src/file.rs": "read_text read_secret",
    "certs/src/handshake.rs": "from_quic of_alert",
    "certs/src/tls.rs": "peer_identity admit",
    "coordinator/src/config.rs": "",
    "coordinator/src/store/checkpoint.rs": "read",
    "coordinator/src/aggregate/validate.rs": "",
    "agent/src/config/mod.rs": "",
    "agent/src/policy/rules.rs": "check",
    "agent/src/lines.rs": "",
    "agent/src/state/local.rs": "read open copy",
    "agent/src/state/retained.rs": "read open_record",
    "agent/src/state/trailer.rs": "open parse pass pass_on",
    "agent/src/state/studies.rs": "load read read_decision",
}
ROOT = pathlib.Path(__file__).resolve().parents[2]
FUNCTION = re.compile(r"( *)(?:pub(?:\(\w+\))? )?(?:async )?fn (\w+)")


def hits(lcov):
    """File -> line -> how often it ran."""
    files, lines = {}, {}
    for row in lcov:
        if row.startswith("SF:"):
            lines = files.setdefault(row[3:].strip(), {})
        elif row.startswith("DA:"):
            line, count = map(int, row[3:].split(",")[:2])
            lines[line] = max(lines.get(line, 0), count)
    return files


def wanted(source, names):
    """The lines of the functions called so, or all lines before the tests."""
    tests = [at for at, text in enumerate(source) if text.strip() == "#[cfg(test)]"]
    product = source[: tests[0]] if tests else source
    if not names:
        return set(range(1, len(product) + 1))
    lines = set()
    for at, text in enumerate(product):
        function = FUNCTION.match(text)
        if function and function[2] in names:
            end = product.index(function[1] + "}", at)
            lines.update(range(at + 1, end + 2))
    return lines


def main():
    """Reads lcov from standard input."""
    files, rows = hits(sys.stdin), []
    for file, names in DECODERS.items():
        source = (ROOT / file).read_text().splitlines()
        lines = wanted(source, names.split())
        counts = {n: c for n, c in files[str(ROOT / file)].items() if n in lines}
        for line in sorted(n for n, count in counts.items() if count == 0):
            print(f"{file}:{line}: {source[line - 1].strip()}")
        rows.append((sum(c > 0 for c in counts.values()), len(counts), file))
    rows.append((sum(row[0] for row in rows), sum(row[1] for row in rows), "all of it"))
    for hit, lines, file in rows:
        print(f"{100 * hit / lines:5.1f} %  {hit:4} of {lines:4}  {file}")


main()
