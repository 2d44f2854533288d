"""Stands in for kubectl in tests: objects are files of KUBECTL_STATE, calls are written down; started as a program.

What an operator would write into `status` is written by the test; `exec` answers as the file `exec-code` says.
"""

import json
import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    state = Path(os.environ["KUBECTL_STATE"])
    with (state / "calls").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    if arguments[0] == "--namespace":
        arguments = arguments[2:]
    verb, *rest = arguments
    if verb == "create":
        made = json.load(sys.stdin)
        path = state / f"{made['kind'].lower()}.{made['metadata']['name']}"
        if path.exists():
            sys.stderr.write(f'Error from server (AlreadyExists): "{made["metadata"]["name"]}" already exists\n')
            return 1
        made["metadata"]["uid"] = "0000"
        path.write_text(json.dumps(made))
        sys.stdout.write(json.dumps(made))
        return 0
    kind = rest[0].removesuffix("s")
    if verb == "get" and "--selector" in rest:
        wanted = dict(pair.split("=") for pair in rest[rest.index("--selector") + 1].split(","))
        items = [json.loads(path.read_text()) for path in sorted(state.glob(f"{kind}.*"))]
        found = [item for item in items if wanted.items() <= item["metadata"].get("labels", {}).items()]
        if "name" in rest:
            sys.stdout.write("\n".join(f"{kind}/{item['metadata']['name']}" for item in found))
        else:
            sys.stdout.write(json.dumps({"items": found}))
        return 0
    if verb == "exec":
        code = int((state / "exec-code").read_text()) if (state / "exec-code").exists() else 0
        if code:
            sys.stderr.write("error: the server refuses\n")
        return code
    if verb in ("get", "delete"):
        path = state / f"{kind}.{rest[1]}"
        if not path.exists():
            if "--ignore-not-found" in rest:
                return 0
            sys.stderr.write(f'Error from server (NotFound): {kind} "{rest[1]}" not found\n')
            return 1
        if verb == "delete":
            path.unlink()
        else:
            sys.stdout.write(path.read_text())
        return 0
    if verb == "logs":
        sys.stdout.write("output of the driver\n")
        return 0
    sys.stderr.write(f"error: unknown command {verb}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
