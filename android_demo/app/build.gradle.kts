import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

val executorch = "1.4.1" // the release that bundles are exported with
val stated = Regex("__version__ = \"([^\"]+)\"").find(rootProject.file("../__init__.py").readText())

android {
    namespace = "ai.echoedge.demo"
    compileSdk = 35

    defaultConfig {
        applicationId = "ai.echoedge.demo"
        minSdk = 26
        targetSdk = 35
        versionCode = 1
        versionName = stated?.groupValues?.get(1) ?: error("__init__.py has no __version__")
        manifestPlaceholders["executorchVersion"] = executorch
        ndk {
            abiFilters += "arm64-v8a"
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
}

kotlin {
    compilerOptions {
        jvmTarget.set(JvmTarget.JVM_1_8) // warnings are no errors here: of API 35 more is deprecated than of API 23
    }
}

dependencies {
    implementation(project(":engine"))
    implementation(project(":appcore"))
    implementation("org.pytorch:executorch-android:$executorch")
}
