"""The scripts for Slurm, TPU slices and Kubernetes, against stand-ins for their tools."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from fake_launch import AWKWARD, KIND, LAUNCH, ROOT, TPU, TRAIN, Stage, is_alive, shell_words


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


# slurm.sbatch


def test_srun_starts_the_training(stage: Stage):
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "6"}
    job |= {"SLURM_NTASKS_PER_NODE": "4", "SLURM_GPUS_ON_NODE": "4"}
    stage.run("slurm.sbatch", *AWKWARD, FAKE="exit 1", code=1, **job)
    (note,) = stage.notes
    options = ["--kill-on-bad-exit=1", "--cpus-per-task=6", "python"]
    assert note["name"] == "srun" and note["arguments"] == [*options, *TRAIN]


def test_dry_run_of_slurm_prints_srun(stage: Stage):
    output, _ = stage.run("slurm.sbatch", *AWKWARD, DRY_RUN="1")
    words = shell_words(output)
    assert words[:2] == ["exec", "srun"] and words[-len(TRAIN) :] == TRAIN and not stage.notes


def test_slurm_asks_for_one_task_a_gpu_and_a_warning():
    lines = re.findall(r"^#SBATCH --(.*)$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    options = dict(line.partition("=")[::2] for line in lines)
    assert (
        options["gpus-per-node"] == options["ntasks-per-node"] and options["signal"] == "TERM@120"
    )
    assert options["requeue"] == "" and options["open-mode"] == "append"
    assert "gpus-per-task" not in options


# tpu_vm.sh


def gcloud(stage: Stage, *command: str, **environment: str) -> list[str]:
    """Call tpu_vm.sh, which calls gcloud once; return its arguments after `compute tpus`."""
    output, _ = stage.run("tpu_vm.sh", *command, **TPU, **environment)
    called = stage.notes[-1]["arguments"]
    assert shell_words(output) == ["gcloud", *called] and called[:2] == ["compute", "tpus"]
    return called[2:]


def test_tpu_slice_is_queued_for_watched_and_deleted(stage: Stage):
    created = gcloud(stage, "create", "--spot", **KIND)
    assert created[:4] == ["queued-resources", "create", "slice", "--zone=zone-a"]
    kind = ["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"]
    assert created[4:] == ["--node-id=slice", *kind, "--spot"]
    described = gcloud(stage, "status")
    assert described[1:] == ["describe", "slice", "--zone=zone-a", "--format=value(state.state)"]
    deleted = gcloud(stage, "delete", "--quiet")
    assert deleted[1:] == ["delete", "slice", "--zone=zone-a", "--force", "--quiet"]


def test_tpu_run_starts_python_on_every_host(stage: Stage, tmp_path: Path):
    called = gcloud(stage, "run", "--workdir", "/shared/a b", *AWKWARD)
    where = ["tpu-vm", "ssh", "slice", "--zone=zone-a", "--worker=all"]
    assert called[:5] == where and len(called) == 6
    # What a host's shell makes of it, in a home where python is the stand-in.
    home = tmp_path / "home"
    (home / "jaxseg/.venv/bin").mkdir(parents=True)
    shutil.copy(stage.bin / "python", home / "jaxseg/.venv/bin/python")
    remote = called[5].removeprefix("--command=")
    environment = stage.environment | {"HOME": str(home)}
    subprocess.run(["bash", "-c", remote], cwd=home, env=environment, check=True, timeout=20)
    _, note = stage.wait_for(2)
    workdir = ["-m", "jaxseg.train", "--workdir", "/shared/a b"]
    assert note["arguments"] == [*workdir, *AWKWARD]
    assert note["environment"]["JAXSEG_DISTRIBUTED"] == "1"
    assert int((home / "jaxseg.pid").read_text()) == note["pid"]


def test_tpu_copy_carries_the_code_and_installs_it(stage: Stage):
    output, _ = stage.run("tpu_vm.sh", "copy", DRY_RUN="1", **TPU)
    _, packed, copied, installed = map(shell_words, output.splitlines())
    assert packed[0] == "tar" and all((ROOT / name).exists() for name in packed[4:])
    where = ["--zone=zone-a", "--worker=all"]
    assert copied[3:] == ["tpu-vm", "scp", *where, "build/jaxseg.tar.gz", "slice:"]
    assert installed[-1].endswith("'.[tpu]'") and not stage.notes


def test_tpu_hosts_are_commanded_and_read(stage: Stage):
    each = gcloud(stage, "each", "echo 'a b'")
    assert each[4:] == ["--worker=all", "--command=echo 'a b'"]
    log = gcloud(stage, "log")
    assert log[4:] == ["--worker=0", "--command=tail -n 100 -F ~/jaxseg.log"]
    stop = gcloud(stage, "stop")
    assert stop[4:] == ["--worker=all", "--command=pkill -TERM -F ~/jaxseg.pid"]
    fetch = gcloud(stage, "fetch", "/shared/a b", "here")
    assert fetch[2:] == ["--zone=zone-a", "--worker=0", "--recurse", "slice:/shared/a b", "here"]


# gke_jobset.yaml


def pod_of(text: str) -> tuple[dict, dict, dict]:
    """The JobSet, the Job's spec and the pod's spec."""
    jobset = yaml.safe_load(text)
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    return jobset, job, job["template"]["spec"]


def test_jobset_pods_find_each_other_and_may_save():
    jobset, job, pod = pod_of((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (container,) = pod["containers"]
    variables = {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}
    name, (workers,) = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"]
    host = f"{name}-{workers['name']}-0-0.{name}"
    assert variables["JAX_COORDINATOR_ADDRESS"].rpartition(":")[0] == host
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert variables["JAX_PROCESS_ID"] == {"fieldRef": {"fieldPath": index}}
    assert variables["JAX_NUM_PROCESSES"] == str(job["completions"]) == str(job["parallelism"])
    assert job["completionMode"] == "Indexed" and workers["replicas"] == 1
    assert pod["terminationGracePeriodSeconds"] >= 60 and pod["restartPolicy"] == "Never"
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert mounts.keys() == {v["name"] for v in pod["volumes"]}
    assert variables["WORKDIR"].startswith(mounts["shared"])


def test_jobset_restarts_all_pods_but_not_after_a_user_error():
    jobset, job, pod = pod_of((LAUNCH / "gke_jobset.yaml").read_text())
    assert job["backoffLimit"] == 0 and jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2]
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


def start_pod(stage: Stage, workdir: Path, index: int, fake: str) -> subprocess.Popen:
    container = pod_of((LAUNCH / "gke_jobset.yaml").read_text())[2]["containers"][0]
    variables = {"WORKDIR": str(workdir), "JOB_COMPLETION_INDEX": str(index), "FAKE": fake}
    return stage.start(container["command"] + container["args"], **variables)


@pytest.mark.parametrize(
    ("index", "fake", "finished", "code"),
    [(0, "exit 0", True, 0), (0, "exit 0", False, 75), (1, "exit 0", False, 0)]
    + [(0, "exit 2", False, 2), (1, "exit 1", False, 1)],
)
def test_pod_succeeds_only_when_the_run_is_finished(stage, tmp_path, index, fake, finished, code):
    workdir = tmp_path / "a run"
    workdir.mkdir()
    if finished:
        (workdir / "finished.json").touch()
    with start_pod(stage, workdir, index, fake) as process:
        assert process.wait(timeout=20) == code
    (note,) = stage.notes
    arguments = note["arguments"]
    assert arguments[:4] == ["-m", "jaxseg.train", "--workdir", str(workdir)]
    assert "--config=configs/lgg.py" in arguments[4:]


@pytest.mark.parametrize(("index", "code"), [(0, 75), (1, 0)])
def test_pod_passes_sigterm_on_and_waits_for_the_save(stage, tmp_path, index, code):
    with start_pod(stage, tmp_path, index, "save 0") as process:
        (note,) = stage.wait_for(1)
        process.terminate()
        assert process.wait(timeout=20) == code
    assert not is_alive(note["pid"])


# README.md


def test_commands_of_the_readme_work_against_the_stand_ins(stage: Stage):
    text = (LAUNCH / "README.md").read_text()
    blocks = [b for b in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "local.sh" not in b]
    for block in blocks:
        with stage.start(["bash", "-euo", "pipefail", "-c", block]) as process:
            _, errors = process.communicate(timeout=50)
        assert process.returncode == 0, errors
    calls = {}
    for note in stage.notes:
        calls.setdefault(note["name"], []).append(note)
    assert calls.keys() == {"sbatch", "gcloud", "kubectl", "tar"} and len(calls["gcloud"]) == 10
    assert "launch/slurm.sbatch" in calls["sbatch"][0]["arguments"]
    applied = calls["kubectl"][0]["stdin"]
    _, _, pod = pod_of(applied)
    assert pod["containers"][0]["image"].endswith("/jaxseg:1")
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "shared"
    assert pod["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-l4"


def test_readme_names_every_file_and_nothing_else():
    text = (LAUNCH / "README.md").read_text()
    files = {p.name for p in LAUNCH.iterdir()} - {"README.md"}
    assert set(re.findall(r"`(\w+\.(?:sh|sbatch|yaml))`", text)) == files
