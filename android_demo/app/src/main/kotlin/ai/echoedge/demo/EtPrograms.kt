package ai.echoedge.demo

import echoedge.appcore.Playable
import echoedge.engine.Bundle
import echoedge.engine.Bytes
import echoedge.engine.EngineException
import echoedge.engine.Floats
import echoedge.engine.Longs
import echoedge.engine.Program
import echoedge.engine.Programs
import echoedge.engine.ResourceException
import echoedge.engine.TensorSpec
import echoedge.engine.Tensor as Numbers
import echoedge.engine.take
import java.io.File
import org.pytorch.executorch.DType
import org.pytorch.executorch.EValue
import org.pytorch.executorch.ExecutorchRuntimeException
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/**
 * A bundle's programs run by ExecuTorch's Android library: the one class that knows it. Files are mapped, not read; one that
 * several programs share is loaded once and destroyed with the last of them. Outputs are views into memory that the next run
 * writes over, so they are copied at once.
 *
 * @throws echoedge.engine.ConfigException the bundle is not for this library.
 */
class EtPrograms(private val bundle: Bundle, private val threads: Int) : Programs {
    private class Held(val module: Module) {
        val users = HashSet<String>()
    }

    private val files = HashMap<String, Held>()

    init {
        Playable.require(bundle)
    }

    override fun load(program: Program) {
        val held = files.getOrPut(program.path) { Held(open(program)) }
        held.users.add(program.name)
        try {
            for (method in program.methods.keys) within(program) { held.module.loadMethod(program.prefix + method) }
        } catch (error: Exception) {
            free(program)
            throw error
        }
    }

    private fun open(program: Program): Module = within(program) {
        try {
            Module.load(File(bundle.root, program.path).path, Module.LOAD_MODE_MMAP, threads)
        } catch (error: LinkageError) {
            throw EngineException(
                "This build of the app has no ExecuTorch library ($error). Build it with Gradle: android_demo/README.md.", error,
            )
        }
    }

    override fun run(program: Program, method: String, inputs: Map<String, Numbers>): Map<String, Numbers> {
        val held = files[program.path]?.takeIf { program.name in it.users }
            ?: throw EngineException("${program.name} is not loaded. Report it.")
        val given = program.take(method, inputs).values.map { EValue.from(given(it)) }.toTypedArray()
        return within(program) {
            val found = held.module.execute(program.prefix + method, *given)
            val specs = program.methods.getValue(method).outputs
            if (found.size != specs.size) {
                throw EngineException("${program.name}.$method gave ${found.size} outputs, not ${specs.size}.")
            }
            specs.zip(found).associate { (spec, value) -> spec.name to taken(program, spec, value) }
        }
    }

    override fun free(program: Program) {
        val held = files[program.path] ?: return
        held.users.remove(program.name)
        if (held.users.isNotEmpty()) return
        files.remove(program.path)
        held.module.destroy()
    }

    private fun given(tensor: Numbers): Tensor {
        val shape = LongArray(tensor.shape.size) { tensor.shape[it].toLong() }
        return if (tensor is Longs) Tensor.fromBlob(tensor.values, shape) else Tensor.fromBlob(tensor.floats(), shape)
    }

    private fun taken(program: Program, spec: TensorSpec, value: EValue): Numbers {
        if (!value.isTensor) throw EngineException("${program.name} gave no tensor for $spec. Export the bundle again.")
        val tensor = value.toTensor()
        val shape = tensor.shape().map(Long::toInt)
        return when (val type = tensor.dtype()) {
            DType.FLOAT, DType.HALF -> Floats(shape, tensor.dataAsFloatArray)
            DType.INT64 -> Longs(shape, tensor.dataAsLongArray)
            DType.INT32 -> Longs(shape, tensor.dataAsIntArray.run { LongArray(size) { this[it].toLong() } })
            DType.INT8 -> Longs(shape, tensor.dataAsByteArray.run { LongArray(size) { this[it].toLong() } })
            DType.UINT8 -> Bytes(shape, tensor.dataAsUnsignedByteArray)
            else -> throw EngineException(
                "${program.name} gave $type for $spec, which cannot be read here. Export the bundle again.",
            )
        }
    }

    /** Runs [body] and says in the engine's words what the library refuses. */
    private fun <T> within(program: Program, body: () -> T): T = try {
        body()
    } catch (error: ExecutorchRuntimeException) {
        if (error.errorCode in NO_MEMORY) {
            throw ResourceException(
                "There is too little memory for ${program.name} (${error.message}). Close other apps, or play a smaller bundle.",
            )
        }
        throw EngineException("${program.name} fails: ${error.message}", error)
    } catch (error: IllegalStateException) {
        throw EngineException("${program.name} fails: ${error.message}", error)
    } catch (error: IllegalArgumentException) {
        throw EngineException("${program.name} was refused: ${error.message}", error)
    }

    private companion object {
        val NO_MEMORY = listOf(
            ExecutorchRuntimeException.MEMORY_ALLOCATION_FAILED, ExecutorchRuntimeException.OUT_OF_RESOURCES,
            ExecutorchRuntimeException.DELEGATE_MEMORY_ALLOCATION_FAILED,
        )
    }
}
