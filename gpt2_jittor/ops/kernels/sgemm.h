// oneDNN's product of matrices, row by row: c = alpha a b + beta c.
extern "C" int dnnl_sgemm(char transa, char transb, long m, long n, long k, float alpha, const float* a, long lda,
                          const float* b, long ldb, float beta, float* c, long ldc);
