"""The emulated cuBLAS and cuRAND beside numpy and torch."""

import ctypes

import numpy as np
import pytest
import torch

from tests.cuda_emulation import home
from tests.cuda_emulation.device import Array, counts, library

pytestmark = pytest.mark.skipif(not home.installed(), reason=f"{home.WHEEL} is not installed: {home.INSTALL}")
# cudaDataType, cublasComputeType_t and cublasStatus_t, as NVIDIA's headers number them
FLOAT32, FLOAT16, BFLOAT16 = 0, 2, 14
IN_FLOAT16, IN_FLOAT32, AS_FLOAT16, AS_BFLOAT16, AS_TF32 = 64, 68, 74, 75, 77
NOT_SUPPORTED, INVALID = 15, 7
TYPES = {FLOAT32: torch.float32, FLOAT16: torch.float16, BFLOAT16: torch.bfloat16}


@pytest.fixture(scope="module")
def handle():
    made = ctypes.c_void_p()
    assert library("cublas").cublasCreate_v2(ctypes.byref(made)) == 0
    return made


def stored(x: torch.Tensor) -> np.ndarray:
    """A matrix as cuBLAS keeps it, column after column; bfloat16 as its bits."""
    x = x.transpose(-1, -2).contiguous()
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def product(handle, a, b, types, compute, c, transposed=(0, 0), alpha=1.0, beta=0.0):
    """cublasGemmStridedBatchedEx of [batch, …] tensors: its status and alpha · op(a) op(b) + beta · c."""
    a, b, c = (x.to(TYPES[kind]) for x, kind in zip((a, b, c), types, strict=True))
    batch, m, n = c.shape
    k = a.shape[1] if transposed[0] else a.shape[2]
    arrays = [Array(stored(x)) for x in (a, b, c)]
    number = np.float16 if compute == IN_FLOAT16 else np.float32
    scales = [np.array([value], number).ctypes.data_as(ctypes.c_void_p) for value in (alpha, beta)]
    of = [
        (arrays[i].pointer, types[i], x.shape[1], ctypes.c_longlong(x.shape[1] * x.shape[2]))
        for i, x in enumerate((a, b, c))
    ]
    status = library("cublas").cublasGemmStridedBatchedEx(
        handle, *transposed, m, n, k, scales[0], *of[0], *of[1], scales[1], *of[2], batch, compute, -1
    )
    result = torch.from_numpy(arrays[2].numpy())
    return status, (result.view(torch.bfloat16) if types[2] == BFLOAT16 else result).transpose(1, 2).float()


@pytest.mark.parametrize("transposed", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_products_in_float32_are_torchs(handle, seed, transposed):
    torch.manual_seed(seed)
    a, b, c = torch.randn(3, 5, 7), torch.randn(3, 7, 4), torch.randn(3, 5, 4)
    given = [x.transpose(1, 2) if t else x for x, t in zip((a, b), transposed, strict=True)]
    before = counts()["products"]
    status, found = product(handle, *given, (FLOAT32,) * 3, IN_FLOAT32, c, transposed, alpha=1.5, beta=0.5)
    assert status == 0 and counts()["products"] == before + 1
    torch.testing.assert_close(found, 1.5 * a @ b + 0.5 * c)


def test_where_beta_is_0_what_was_there_is_not_read(handle, seed):
    torch.manual_seed(seed)
    a, b = torch.randn(1, 5, 7), torch.randn(1, 7, 4)
    status, found = product(handle, a, b, (FLOAT32,) * 3, IN_FLOAT32, torch.full((1, 5, 4), torch.nan))
    assert status == 0
    torch.testing.assert_close(found, a @ b)


@pytest.mark.parametrize("kind", [FLOAT16, BFLOAT16])
def test_two_byte_inputs_are_summed_in_float32_and_rounded_once(handle, seed, kind):
    torch.manual_seed(seed)
    a, b = torch.randn(2, 5, 3000), torch.randn(2, 3000, 4)
    exact = a.to(TYPES[kind]).double() @ b.to(TYPES[kind]).double()
    _, wide = product(handle, a, b, (kind, kind, FLOAT32), IN_FLOAT32, torch.zeros(2, 5, 4))
    torch.testing.assert_close(wide.double(), exact, rtol=0, atol=1e-3)  # 3,000 terms of about 1 in float32
    _, narrow = product(handle, a, b, (kind, kind, kind), IN_FLOAT32, torch.zeros(2, 5, 4))
    assert torch.equal(narrow, wide.to(TYPES[kind]).float())


def test_sums_in_float16_lose_what_float32_keeps(handle):
    ones = torch.ones(1, 1, 4096), torch.ones(1, 4096, 1)
    _, found = product(handle, *ones, (FLOAT16,) * 3, IN_FLOAT16, torch.zeros(1, 1, 1))
    assert found.item() == 2048  # beyond it float16 has no odd numbers: 2048 + 1 rounds to 2048


@pytest.mark.parametrize("compute, narrow", [(AS_FLOAT16, torch.float16), (AS_BFLOAT16, torch.bfloat16)])
def test_float32_inputs_are_narrowed_where_the_caller_allows(handle, seed, compute, narrow):
    torch.manual_seed(seed)
    a, b = torch.randn(1, 5, 7), torch.randn(1, 7, 4)
    _, found = product(handle, a, b, (FLOAT32,) * 3, compute, torch.zeros(1, 5, 4))
    torch.testing.assert_close(found, a.to(narrow).float() @ b.to(narrow).float())


def test_tf32_keeps_ten_bits(handle):
    x = torch.tensor([1 + 2**-10, 1 + 2**-12, -3.5, 0.0])
    _, found = product(handle, torch.eye(4)[None], x.reshape(1, 4, 1), (FLOAT32,) * 3, AS_TF32, torch.zeros(1, 4, 1))
    assert found.flatten().tolist() == [1 + 2**-10, 1.0, -3.5, 0.0]


@pytest.mark.parametrize(
    "types, compute",
    [((BFLOAT16,) * 3, IN_FLOAT16), ((FLOAT16, FLOAT16, BFLOAT16), IN_FLOAT32), ((FLOAT16,) * 3, AS_TF32)],
)
def test_products_that_cublas_does_not_offer_are_refused(handle, types, compute):
    x = torch.ones(1, 2, 2)
    status, _ = product(handle, x, x, types, compute, x)
    assert status == NOT_SUPPORTED


def test_random_numbers_have_their_range_and_their_moments_and_follow_from_the_seed():
    curand, generator = library("curand"), ctypes.c_void_p()
    assert curand.curandCreateGenerator(ctypes.byref(generator), 100) == 0

    def drawn(function, *arguments) -> np.ndarray:
        array = Array(np.zeros(20000, np.float32))
        assert curand.curandSetPseudoRandomGeneratorSeed(generator, ctypes.c_ulonglong(5)) == 0
        assert function(generator, array.pointer, ctypes.c_size_t(20000), *arguments) == 0
        return array.numpy()

    uniform = drawn(curand.curandGenerateUniform)
    assert uniform.min() > 0 and uniform.max() <= 1 and abs(uniform.mean() - 0.5) < 0.01
    assert np.array_equal(uniform, drawn(curand.curandGenerateUniform))
    normal = drawn(curand.curandGenerateNormal, ctypes.c_float(2), ctypes.c_float(3))
    assert abs(normal.mean() - 2) < 0.1 and abs(normal.std() - 3) < 0.1  # 0.02 is the mean's own deviation
