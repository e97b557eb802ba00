import ai.echoedge.demo.EtPrograms;
import echoedge.engine.Bundle;
import echoedge.engine.Dimension;
import echoedge.engine.EngineException;
import echoedge.engine.Floats;
import echoedge.engine.Player;
import echoedge.engine.Program;
import echoedge.engine.Programs;
import echoedge.engine.ResourceException;
import echoedge.engine.TensorSpec;
import echoedge.engine.Toy;
import echoedge.engine.ToyPrograms;
import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.pytorch.executorch.DType;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.ExecutorchRuntimeException;
import org.pytorch.executorch.Module;

/** The app's adapter over a stand-in of ExecuTorch's library: plays what the engine's own programs of formulas play. */
public class Check {
    private static float[] latents(Bundle bundle, Programs programs, boolean frugal) throws Exception {
        List<Integer> frames = new ArrayList<>();
        Player player = new Player(bundle, programs, bundle.getManifest().getClips().get(0), null, frugal, (stage, done, total) -> {},
            () -> false);
        float[] found = player.play(Toy.INSTANCE.portrait(), Toy.INSTANCE.speech(21), Toy.PROMPT, 7L, null, (number, frame) -> frames.add(
            Arrays.hashCode(frame.getBytes()))).getLatents().getValues();
        player.free(null);
        float[] both = Arrays.copyOf(found, found.length + frames.size());
        for (int i = 0; i < frames.size(); i++) both[found.length + i] = frames.get(i);
        return both;
    }

    /** As ToyPrograms: every output a function of the sum of all inputs, in the order in which they are listed. */
    private static float[][] formula(String key, EValue[] inputs) {
        double sum = 0.0;
        for (EValue each : inputs) {
            double own = 0.0;
            for (float value : each.toTensor().getDataAsFloatArray()) own += value;
            sum += own;
        }
        if (Boolean.getBoolean("changed") && key.startsWith("denoise")) sum += 1e-3;
        long[][] shapes = Module.SHAPES.get(key);
        float[][] made = new float[shapes.length][];
        for (int i = 0; i < shapes.length; i++) {
            int size = 1;
            for (long side : shapes[i]) size *= (int) side;
            made[i] = new float[size];
            for (int at = 0; at < size; at++) made[i][at] = (float) Math.sin(sum + at) * 0.9f;
        }
        return made;
    }

    private static String refusal(Runnable body, Class<?> kind) {
        try {
            body.run();
        } catch (Throwable error) { // Kotlin declares none
            if (kind.isInstance(error)) return error.getMessage();
            throw new AssertionError("another error: " + error, error);
        }
        throw new AssertionError("nothing was refused");
    }

    private static void require(boolean good, String what) {
        if (!good) throw new AssertionError(what + "\n" + String.join("\n", Module.LOG));
    }

    public static void main(String[] arguments) throws Exception {
        Bundle bundle = Bundle.Companion.open(new File(arguments[0]), true, (done, total) -> kotlin.Unit.INSTANCE);
        for (Program program : bundle.getManifest().getPrograms().values()) {
            program.getMethods().forEach((method, specs) -> Module.SHAPES.put(
                new File(program.getPath()).getName() + " " + program.getPrefix() + method,
                specs.getOutputs().stream().map(Check::shape).toArray(long[][]::new)));
        }
        Module.runs = Check::formula;
        for (boolean frugal : new boolean[] {true, false}) {
            Module.LOG.clear();
            float[] mine = latents(bundle, new EtPrograms(bundle, 3), frugal);
            require(Arrays.equals(mine, latents(bundle, new ToyPrograms(null), frugal)), "other numbers");
            long loads = Module.LOG.stream().filter(line -> line.startsWith("load ")).count();
            require(Module.LOG.stream().filter(line -> line.startsWith("load text_conditions.pte")).count() == 1, "a shared file twice");
            require(Module.LOG.contains("method text_conditions.pte image_forward"), "a method without its prefix");
            require(loads == Module.LOG.stream().filter(line -> line.startsWith("destroy ")).count(), "not all is destroyed");
            require(Module.LOG.stream().filter(line -> line.startsWith("load ")).allMatch(line -> line.endsWith("mode 1 threads 3")), "not mapped");
        }
        faults(bundle);
        System.out.println("adapter: all is well, " + Module.SHAPES.size() + " methods");
    }

    private static void faults(Bundle bundle) {
        EtPrograms programs = new EtPrograms(bundle, 1);
        Program denoise = bundle.getManifest().getPrograms().get("denoise");
        Program encoder = bundle.getManifest().getPrograms().get("image_encoder");
        Floats portrait = new Floats(Arrays.asList(1, 3, 16, 16), new float[768]);
        java.util.Map<String, Floats> given = java.util.Collections.singletonMap("portrait", portrait);
        require(refusal(() -> programs.run(encoder, "forward", given), EngineException.class).contains("is not loaded"), "ran unloaded");
        Module.failing = "denoise.pte";
        Module.fails = 0x22;
        require(refusal(() -> programs.load(denoise), EngineException.class).contains("no denoise.pte"), "its own words");
        Module.fails = 0x21;
        require(refusal(() -> programs.load(denoise), ResourceException.class).contains("too little memory"), "memory");
        Module.failing = "denoise.pte " + denoise.getPrefix() + "forward";
        Module.LOG.clear();
        refusal(() -> programs.load(denoise), ResourceException.class);
        require(Module.LOG.contains("destroy denoise.pte"), "what could not be readied is kept");
        Module.failing = "";
        programs.load(encoder);
        require(refusal(() -> programs.run(encoder, "forward", java.util.Collections.emptyMap()), EngineException.class)
            .contains("was not given"), "an input is missing");
        Module.gives = DType.BOOL;
        require(refusal(() -> programs.run(encoder, "forward", given), EngineException.class).contains("BOOL"), "a type that cannot be read");
        Module.gives = DType.FLOAT;
        Module.runs = (key, inputs) -> new float[0][];
        require(refusal(() -> programs.run(encoder, "forward", given), EngineException.class).contains("0 outputs"), "outputs");
        Module.runs = (key, inputs) -> {
            throw new IllegalStateException("torn down");
        };
        require(refusal(() -> programs.run(encoder, "forward", given), EngineException.class).contains("torn down"), "a state");
        Module.runs = (key, inputs) -> {
            throw new ExecutorchRuntimeException(0x12, "bad input");
        };
        require(refusal(() -> programs.run(encoder, "forward", given), EngineException.class).contains("bad input"), "an argument");
        programs.free(encoder);
        programs.free(encoder); // twice is once
    }

    private static long[] shape(TensorSpec spec) {
        return spec.getShape().stream().map(Dimension::getSize).mapToLong(Integer::longValue).toArray();
    }
}
