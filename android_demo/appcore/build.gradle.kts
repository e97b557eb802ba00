import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("org.jetbrains.kotlin.jvm")
}

java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

kotlin {
    // The engine's bundle whose programs are formulas is tested with here, too.
    sourceSets["test"].kotlin {
        srcDir("../engine/src/test/kotlin")
        include("echoedge/appcore/**", "echoedge/engine/Toy.kt")
    }
    compilerOptions {
        jvmTarget.set(JvmTarget.JVM_1_8)
        allWarningsAsErrors.set(true)
        progressiveMode.set(true)
        freeCompilerArgs.add("-Xjdk-release=1.8") // whatever Java runs Gradle: newer ones deprecate what Android has
    }
}

dependencies {
    implementation(project(":engine"))
    testImplementation("junit:junit:4.13.2")
}
