package org.pytorch.executorch;

public class ExecutorchRuntimeException extends RuntimeException {
    private final int code;

    public ExecutorchRuntimeException(int code, String details) {
        super(details);
        this.code = code;
    }

    public int getErrorCode() {
        return code;
    }
}
