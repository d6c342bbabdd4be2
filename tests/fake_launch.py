"""Stand-ins for python, srun, gcloud, kubectl and others that note what they were called with."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = ["local.sh", "multiprocess.sh", "slurm.sbatch", "tpu_vm.sh"]
AWKWARD = ["--config", "configs/my net.py", '--config.a=it\'s "x" $HOME *;(p\\d+)_']
TRAIN = ["-m", "jaxseg.train", *AWKWARD]
TPU = {"TPU_NAME": "slice", "ZONE": "zone-a"}
KIND = {"ACCELERATOR_TYPE": "v5litepod-16", "RUNTIME_VERSION": "v2-alpha-tpuv5-lite"}

# Notes its arguments and what it may care for; then does what FAKE_<process id> or FAKE says.
STAND_IN = f"""#!{sys.executable}
import json, os, signal, subprocess, sys, time
name, environment = os.path.basename(sys.argv[0]), dict(os.environ)
rank = environment.get("JAX_PROCESS_ID", "")
note = {{"name": name, "arguments": sys.argv[1:], "environment": environment, "pid": os.getpid()}}
if name == "kubectl" and "apply" in sys.argv:
    note["stdin"] = sys.stdin.read()
action, _, value = environment.get("FAKE_" + rank, environment.get("FAKE", "exit 0")).partition(" ")
received = []
if action == "save":
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    signal.signal(signal.SIGINT, lambda number, _: received.append(number))
if action == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
end = time.monotonic() + 30
if action == "leave":  # a worker of its own, which outlives it
    note["pid"] = subprocess.Popen(["sleep", "60"]).pid
    action = "exit"
path = os.path.join(environment["NOTES"], f"{{time.time_ns()}}-{{os.getpid()}}")
with open(path + ".tmp", "w") as file:
    json.dump(note, file)
os.rename(path + ".tmp", path + ".json")
while action != "exit" and not received and time.monotonic() < end:
    time.sleep(0.02)
if received:
    time.sleep(0.4)  # for a second one
    with open(path + ".signals", "w") as file:
        file.write(" ".join(map(str, received)))
sys.exit(int(value or 0))
"""


class Stage:
    """A tmp folder whose stand-ins come first on PATH; `notes` is what they were called with."""

    def __init__(self, folder: Path):
        self.bin, self.folder = folder / "bin", folder / "notes"
        self.bin.mkdir()
        self.folder.mkdir()
        for name in ("python", "srun", "sbatch", "gcloud", "kubectl", "tar"):
            (self.bin / name).write_text(STAND_IN)
            (self.bin / name).chmod(0o755)
        keep = ("HOME", "LANG", "TMPDIR")
        self.environment = {k: os.environ[k] for k in keep if k in os.environ} | {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "PYTHON": "python",
            "NOTES": str(self.folder),
        }

    def start(self, command: list, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [str(c) for c in command],
            env=self.environment | environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command, code: int = 0, **environment: str) -> tuple[str, str]:
        """Run a script of launch/ to its end; return stdout and stderr."""
        script, *arguments = command
        with self.start(["bash", LAUNCH / script, *arguments], **environment) as process:
            output, errors = process.communicate(timeout=50)
        assert process.returncode == code, errors
        return output, errors

    @property
    def notes(self) -> list[dict]:
        return [json.loads(p.read_text()) for p in sorted(self.folder.glob("*.json"))]

    @property
    def signals(self) -> list[str]:
        """The signals that each stand-in received, in order of their start."""
        return [p.read_text() for p in sorted(self.folder.glob("*.signals"))]

    def wait_for(self, count: int) -> list[dict]:
        end = time.monotonic() + 20
        while len(self.notes) < count:
            assert time.monotonic() < end, f"{len(self.notes)} of {count} started"
            time.sleep(0.02)
        return self.notes


def shell_words(line: str) -> list[str]:
    """What bash makes of a printed command, without the plus sign."""
    program = f"printf '%s\\0' {line.removeprefix('+ ')}"
    printed = subprocess.run(["bash", "-c", program], check=True, capture_output=True, text=True)
    return printed.stdout.split("\0")[:-1]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
