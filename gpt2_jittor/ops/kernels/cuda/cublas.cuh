// cuBLAS's product of float32 matrices, row by row, as ../sgemm.h has it, with Jittor's own handle.
#include <cublas_v2.h>

#include <stdexcept>
#include <string>

#include "common.cuh"

namespace jittor {
extern cublasHandle_t cublas_handle;
}

// c = alpha a b + beta c
static void sgemm(char transa, char transb, long m, long n, long k, float alpha, const float* a, long lda,
                  const float* b, long ldb, float beta, float* c, long ldc) {
    const auto operation = [](char trans) { return trans == 'T' ? CUBLAS_OP_T : CUBLAS_OP_N; };
    // column by column, as cuBLAS reads them, these are the transposed matrices: c^T = b^T a^T
    const cublasStatus_t status = cublasSgemm(jittor::cublas_handle, operation(transb), operation(transa), n, m, k,
                                              &alpha, b, ldb, a, lda, &beta, c, ldc);
    if (status != CUBLAS_STATUS_SUCCESS) throw std::runtime_error("cuBLAS: status " + std::to_string(status));
}
