"""Open MPI as tests start it."""

from gpt2_jittor.runtime import runtime

MPIRUN = runtime.find_mpi("mpirun")
SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",  # in a container
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # more processes than cores: Open MPI 4, then 5
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
