// cuBLAS's products, computed: column-major, inputs and sums of the types that the caller chose.
#include "cublas_v2.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "emulation.h"

struct cublasContext {
    cublasMath_t mode = CUBLAS_DEFAULT_MATH;
};

namespace {

size_t size_of(cudaDataType type) { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }

double read(const void* p, cudaDataType type, size_t i) {
    switch (type) {
        case CUDA_R_64F: return ((const double*)p)[i];
        case CUDA_R_16F: return __half2float(((const __half*)p)[i]);
        case CUDA_R_16BF: return __bfloat162float(((const __nv_bfloat16*)p)[i]);
        default: return ((const float*)p)[i];
    }
}

void write(void* p, cudaDataType type, size_t i, double value) {
    switch (type) {
        case CUDA_R_64F: ((double*)p)[i] = value; break;
        case CUDA_R_16F: ((__half*)p)[i] = __float2half_rn((float)value); break;
        case CUDA_R_16BF: ((__nv_bfloat16*)p)[i] = __float2bfloat16_rn((float)value); break;
        default: ((float*)p)[i] = (float)value;
    }
}

// A float32 input as tensor cores take it: 10 bits of mantissa, or another type's.
float narrowed(float x, cublasComputeType_t compute) {
    switch (compute) {
        case CUBLAS_COMPUTE_32F_FAST_16F: return __half2float(__float2half_rn(x));
        case CUBLAS_COMPUTE_32F_FAST_16BF: return __bfloat162float(__float2bfloat16_rn(x));
        case CUBLAS_COMPUTE_32F_FAST_TF32: {
            unsigned bits;
            memcpy(&bits, &x, 4);
            if ((bits & 0x7f800000) != 0x7f800000) bits += 0xfff + (bits >> 13 & 1), bits &= ~0x1fffu;
            memcpy(&x, &bits, 4);
            return x;
        }
        default: return x;
    }
}

struct Matrix {
    const void* data;
    cudaDataType type;
    int ld;
    cublasOperation_t operation;
};

// op(M), rows x columns, as Sum's, row after row
template <class Sum>
std::vector<Sum> unpacked(const Matrix& m, int rows, int columns, size_t offset, cublasComputeType_t compute) {
    std::vector<Sum> result((size_t)rows * columns);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            const size_t at = m.operation == CUBLAS_OP_N ? r + (size_t)c * m.ld : c + (size_t)r * m.ld;
            const double x = read(m.data, m.type, offset + at);
            result[(size_t)r * columns + c] = sizeof(Sum) == 4 ? narrowed((float)x, compute) : x;
        }
    return result;
}

template <class Sum>
void accumulate(Sum* sums, const Sum* row, Sum factor, int count, bool in_half) {
    if (!in_half) {
        for (int i = 0; i < count; i++) sums[i] += factor * row[i];
    } else {  // every partial sum is rounded to float16
        for (int i = 0; i < count; i++)
            sums[i] = __half2float(__float2half_rn((float)(sums[i] + factor * row[i])));
    }
}

template <class Sum>
void product(int m, int n, int k, double alpha, const Matrix& a, size_t at_a, const Matrix& b, size_t at_b, double beta,
             void* c, cudaDataType type, size_t at_c, int ldc, cublasComputeType_t compute) {
    const bool in_half = compute == CUBLAS_COMPUTE_16F || compute == CUBLAS_COMPUTE_16F_PEDANTIC;
    const auto left = unpacked<Sum>({a.data, a.type, a.ld, a.operation == CUBLAS_OP_N ? CUBLAS_OP_T : CUBLAS_OP_N}, k,
                                    m, at_a, compute);
    std::vector<Sum> right = unpacked<Sum>(b, k, n, at_b, compute), sums(m);
    for (int column = 0; column < n; column++) {
        std::fill(sums.begin(), sums.end(), Sum(0));
        for (int l = 0; l < k; l++)
            accumulate(sums.data(), &left[(size_t)l * m], right[(size_t)l * n + column], m, in_half);
        for (int row = 0; row < m; row++) {
            const size_t at = at_c + row + (size_t)column * ldc;
            const double before = beta == 0 ? 0 : beta * read(c, type, at);  // where beta is 0, C is not read
            write(c, type, at, alpha * sums[row] + before);
        }
    }
}

bool supported(cudaDataType a, cudaDataType b, cudaDataType c, cublasComputeType_t compute) {
    const bool same = a == b;
    switch (compute) {
        case CUBLAS_COMPUTE_16F:
        case CUBLAS_COMPUTE_16F_PEDANTIC: return same && a == CUDA_R_16F && c == CUDA_R_16F;
        case CUBLAS_COMPUTE_32F:
        case CUBLAS_COMPUTE_32F_PEDANTIC:
            return same && (a == CUDA_R_32F ? c == CUDA_R_32F
                                            : (a == CUDA_R_16F || a == CUDA_R_16BF) && (c == a || c == CUDA_R_32F));
        case CUBLAS_COMPUTE_32F_FAST_16F:
        case CUBLAS_COMPUTE_32F_FAST_16BF:
        case CUBLAS_COMPUTE_32F_FAST_TF32: return same && a == CUDA_R_32F && c == CUDA_R_32F;
        case CUBLAS_COMPUTE_64F:
        case CUBLAS_COMPUTE_64F_PEDANTIC: return same && a == CUDA_R_64F && c == CUDA_R_64F;
    }
    return false;
}

double scale(const void* p, cublasComputeType_t compute) {
    if (compute == CUBLAS_COMPUTE_16F || compute == CUBLAS_COMPUTE_16F_PEDANTIC) return read(p, CUDA_R_16F, 0);
    if (compute == CUBLAS_COMPUTE_64F || compute == CUBLAS_COMPUTE_64F_PEDANTIC) return read(p, CUDA_R_64F, 0);
    return read(p, CUDA_R_32F, 0);
}

bool reachable(const void* p, int rows, int columns, int ld, cudaDataType type, long long stride, int batches) {
    const size_t elements = (size_t)stride * (batches - 1) + (size_t)ld * (columns - 1) + rows;
    return emulationOnDevice(p, elements * size_of(type));
}

}  // namespace

EMULATION_API cublasStatus_t cublasGemmStridedBatchedEx(
    cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k, const void* alpha,
    const void* A, cudaDataType typeA, int lda, long long strideA, const void* B, cudaDataType typeB, int ldb,
    long long strideB, const void* beta, void* C, cudaDataType typeC, int ldc, long long strideC, int batches,
    cublasComputeType_t compute, cublasGemmAlgo_t) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (m < 0 || n < 0 || k < 0 || batches < 0) return CUBLAS_STATUS_INVALID_VALUE;
    const int rows_a = transa == CUBLAS_OP_N ? m : k, rows_b = transb == CUBLAS_OP_N ? k : n;
    if (lda < std::max(1, rows_a) || ldb < std::max(1, rows_b) || ldc < std::max(1, m))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!supported(typeA, typeB, typeC, compute)) return CUBLAS_STATUS_NOT_SUPPORTED;
    emulationCount(emulation::PRODUCTS, 1);
    if (!m || !n || !batches) return CUBLAS_STATUS_SUCCESS;
    if ((k && (!reachable(A, rows_a, m + k - rows_a, lda, typeA, strideA, batches) ||
               !reachable(B, rows_b, k + n - rows_b, ldb, typeB, strideB, batches))) ||
        !reachable(C, m, n, ldc, typeC, strideC, batches))
        emulationFail("cuBLAS: a product of %d x %d x %d, %d times, is not within the device's memory", m, n, k, batches);
    emulation::DeviceWorks works;
    const Matrix a{A, typeA, lda, transa}, b{B, typeB, ldb, transb};
    if (typeA == CUDA_R_32F && compute == CUBLAS_COMPUTE_32F)  // what the handle allows
        compute = handle->mode == CUBLAS_TF32_TENSOR_OP_MATH ? CUBLAS_COMPUTE_32F_FAST_TF32
                  : handle->mode == CUBLAS_TENSOR_OP_MATH    ? CUBLAS_COMPUTE_32F_FAST_16F
                                                             : compute;
    const double times = scale(alpha, compute), kept = scale(beta, compute);
    for (int i = 0; i < batches; i++) {
        const auto run = typeA == CUDA_R_64F ? product<double> : product<float>;
        run(m, n, k, times, a, i * strideA, b, i * strideB, kept, C, typeC, i * strideC, ldc, compute);
    }
    return CUBLAS_STATUS_SUCCESS;
}

EMULATION_API cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb,
                                          int m, int n, int k, const void* alpha, const void* A, cudaDataType typeA,
                                          int lda, const void* B, cudaDataType typeB, int ldb, const void* beta,
                                          void* C, cudaDataType typeC, int ldc, cublasComputeType_t compute,
                                          cublasGemmAlgo_t algorithm) {
    return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, A, typeA, lda, 0, B, typeB, ldb, 0, beta,
                                      C, typeC, ldc, 0, 1, compute, algorithm);
}

EMULATION_API cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t transa,
                                                       cublasOperation_t transb, int m, int n, int k,
                                                       const float* alpha, const float* A, int lda, long long strideA,
                                                       const float* B, int ldb, long long strideB, const float* beta,
                                                       float* C, int ldc, long long strideC, int batches) {
    return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, A, CUDA_R_32F, lda, strideA, B,
                                      CUDA_R_32F, ldb, strideB, beta, C, CUDA_R_32F, ldc, strideC, batches,
                                      CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}

EMULATION_API cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb,
                                            int m, int n, int k, const float* alpha, const float* A, int lda,
                                            const float* B, int ldb, const float* beta, float* C, int ldc) {
    return cublasSgemmStridedBatched(handle, transa, transb, m, n, k, alpha, A, lda, 0, B, ldb, 0, beta, C, ldc, 0, 1);
}

EMULATION_API cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
    return *handle = new cublasContext, CUBLAS_STATUS_SUCCESS;
}
EMULATION_API cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) { return delete handle, CUBLAS_STATUS_SUCCESS; }
EMULATION_API cublasStatus_t cublasSetStream_v2(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }
EMULATION_API cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    return handle->mode = mode, CUBLAS_STATUS_SUCCESS;
}
EMULATION_API cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int* version) {
    return *version = CUBLAS_VER_MAJOR * 10000 + CUBLAS_VER_MINOR * 100, CUBLAS_STATUS_SUCCESS;
}
EMULATION_API const char* cublasGetStatusName(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS         ? "CUBLAS_STATUS_SUCCESS"
           : status == CUBLAS_STATUS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED"
           : status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
                                                   : "another cublasStatus";
}
EMULATION_API const char* cublasGetStatusString(cublasStatus_t status) { return cublasGetStatusName(status); }
