//! The gateway's key configuration: what each view shows of it, and which one is used.

use super::*;

impl Transport {
    pub(super) async fn current_key_config(&mut self) -> Result<Vec<u8>, Attempt> {
        let now = self.time.now_unix_ms();
        let is_new = self.views.keys.adopt(now, &self.pace);
        match (&self.key_config, is_new) {
            (Some(config), false) => Ok(config.clone()),
            _ => match self.choose_key_config(now).await {
                Ok(config) => {
                    self.key_config = Some(config.clone());
                    Ok(config)
                }
                // What is in use goes on.
                Err(attempt) => self.key_config.clone().ok_or(attempt),
            },
        }
    }

    /// The first of the configurations that mirrors, relay and gateway show; without mirrors, that
    /// relay and gateway do.
    pub(super) async fn choose_key_config(&mut self, now: u64) -> Result<Vec<u8>, Attempt> {
        let shown = self.key_configs_of_relay().await?;
        let mut candidates = match self.mirrored_key_configs(&shown, now).await? {
            Some(mut mirrored) => {
                key_config::agree(&mut mirrored, &shown, KeyView::Mirror)
                    .map_err(Attempt::Mismatch)?;
                mirrored
            }
            None => shown,
        };
        let asked = candidates
            .first()
            .cloned()
            .ok_or(Attempt::Failed(Error::Protocol(
                "no key configuration that can be used",
            )))?;
        let own = self.key_configs_of_gateway(&asked).await?;
        key_config::agree(&mut candidates, &own, KeyView::Gateway).map_err(Attempt::Mismatch)?;
        Ok(asked)
    }

    /// What mirrors show: as it was when they were last asked. They are asked now only if they
    /// never were, or if the relay shows everybody that their word is out of date and the time for
    /// it has come.
    pub(super) async fn mirrored_key_configs(
        &mut self,
        shown: &[Vec<u8>],
        now: u64,
    ) -> Result<Option<Vec<Vec<u8>>>, Attempt> {
        if self.endpoints.ohttp_key_mirrors.is_empty() {
            return Ok(None);
        }
        let is_stale = self.views.is_stale(now);
        if let Some(known) = self.views.keys.used() {
            if known.iter().any(|config| shown.contains(config)) {
                return Ok(Some(known.clone()));
            }
            if is_stale {
                // Who was away for days cannot be made to ask, nor wait.
            } else if let Some(from_ms) = self.views.keys.next_ms() {
                return Err(waiting(from_ms, now));
            } else {
                let pace = &self.pace;
                let due = self
                    .views
                    .bring_forward(now, pace)
                    .and_then(|()| self.views.is_due(now, pace))
                    .map_err(Attempt::Failed)?;
                if !due {
                    return Err(waiting(self.views.due_ms(), now));
                }
            }
        }
        let asked = self.ask_mirrors(shown).await;
        let kept = match &asked {
            Ok(mirrored) if is_stale => {
                self.views.keys = Agreed::of(mirrored.clone());
                self.views.compared(now, &self.pace)
            }
            Ok(mirrored) => self
                .views
                .keys
                .take(mirrored.clone(), now, &self.pace)
                .and_then(|()| self.views.compared(now, &self.pace)),
            Err(_) => self.views.failed(now, &self.pace),
        };
        kept.map_err(Attempt::Failed)?;
        asked?;
        self.views.keys.adopt(now, &self.pace);
        match self.views.keys.next_ms() {
            Some(from_ms) => Err(waiting(from_ms, now)),
            None => Ok(self.views.keys.used().cloned()),
        }
    }

    /// The configurations that are in the lists of all mirrors, if the relay shows one of them.
    pub(super) async fn ask_mirrors(&self, shown: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Attempt> {
        let mut all: Option<Vec<Vec<u8>>> = None;
        for mirror in &self.endpoints.ohttp_key_mirrors {
            let list = self.key_configs_at(&self.to_mirrors, mirror).await?;
            match &mut all {
                None => all = Some(list),
                Some(all) => {
                    key_config::agree(all, &list, KeyView::Mirror).map_err(Attempt::Mismatch)?;
                }
            }
        }
        let all = all.unwrap_or_default();
        if all.iter().any(|config| shown.contains(config)) {
            Ok(all)
        } else {
            Err(Attempt::Mismatch(KeyView::Mirror))
        }
    }

    /// The relay is asked by the connection of all requests: it knows nothing but the address.
    pub(super) async fn key_configs_of_relay(&self) -> Result<Vec<Vec<u8>>, Attempt> {
        self.key_configs_at(&self.http, &self.endpoints.ohttp_keys)
            .await
    }

    /// Key configurations, fetched in the open.
    pub(super) async fn key_configs_at(
        &self,
        http: &web::Client,
        url: &str,
    ) -> Result<Vec<Vec<u8>>, Attempt> {
        let unusable = || {
            let url = trust::without_secrets(url);
            again(format!("{url} shows no usable key configurations"))
        };
        let list = document(http, url, configs::MEDIA_TYPE)
            .await
            .map_err(again)?;
        configs::usable(&list).map_err(|error| match error {
            Unusable::Malformed => unusable(),
            Unusable::TooMany => too_many_keys(),
        })
    }

    /// The directory of the service, as the relay mirrors it.
    pub(crate) async fn directory_of_relay(&self) -> Result<Directory, Error> {
        directory_at(&self.http, &self.endpoints.ohttp_keys).await
    }

    /// The same as every other mirror shows it.
    pub(crate) async fn directories_of_mirrors(&self) -> Result<Vec<Directory>, Error> {
        let mut all = Vec::new();
        for mirror in &self.endpoints.ohttp_key_mirrors {
            all.push(directory_at(&self.to_mirrors, mirror).await?);
        }
        Ok(all)
    }

    /// Compares what relay and mirrors show; what is new is used later.
    pub(crate) async fn compare_keys(&mut self) -> Result<(), Error> {
        if self.endpoints.ohttp_key_mirrors.is_empty() {
            return Ok(());
        }
        let now = self.time.now_unix_ms();
        let mirrored = match self.key_configs_of_relay().await {
            Ok(shown) => self.ask_mirrors(&shown).await,
            Err(attempt) => Err(attempt),
        };
        let mirrored = mirrored.map_err(|attempt| match attempt {
            Attempt::Failed(error) => error,
            Attempt::Mismatch(view) => Error::KeyConfigMismatch(view),
            _ => NoAnswer::from("the key configurations cannot be fetched").into(),
        })?;
        self.views.keys.take(mirrored, now, &self.pace)
    }

    pub(crate) fn take_directory(&mut self, directory: Directory) -> Result<(), Error> {
        let now = self.time.now_unix_ms();
        self.views.directory.take(directory, now, &self.pace)
    }

    pub(crate) fn adopt_directory(&mut self) {
        let now = self.time.now_unix_ms();
        self.views.directory.adopt(now, &self.pace);
    }

    pub(crate) fn comparison_is_due(&mut self) -> Result<bool, Error> {
        let now = self.time.now_unix_ms();
        self.views.is_due(now, &self.pace)
    }

    pub(crate) fn comparison_is_done(&mut self) -> Result<(), Error> {
        let now = self.time.now_unix_ms();
        self.views.compared(now, &self.pace)
    }

    pub(crate) fn comparison_failed(&mut self) -> Result<(), Error> {
        let now = self.time.now_unix_ms();
        self.views.failed(now, &self.pace)
    }

    pub(crate) fn bring_comparison_forward(&mut self) -> Result<(), Error> {
        let now = self.time.now_unix_ms();
        self.views.bring_forward(now, &self.pace)
    }

    /// What the gateway says of itself: the one request that goes out under a key before the views
    /// of it were compared. It says nothing but that somebody is there.
    pub(super) async fn key_configs_of_gateway(
        &mut self,
        config: &[u8],
    ) -> Result<Vec<Vec<u8>>, Attempt> {
        let (scheme, authority) = self.endpoints.ds_origin().map_err(Attempt::Failed)?;
        let date = date_of(self.time.now_unix_ms());
        let message = inner("GET", &scheme, &authority, configs::PATH, &date);
        let list = self
            .attempt_under(
                config,
                Bounds::ordinary(Duration::ZERO, MAX_PROBLEM),
                &message,
            )
            .await?;
        configs::usable(&list).map_err(|error| match error {
            Unusable::Malformed => again("the gateway's key configurations are malformed"),
            Unusable::TooMany => too_many_keys(),
        })
    }
}

fn too_many_keys() -> Attempt {
    Attempt::Failed(Error::Protocol(
        "more OHTTP keys are shown than a rotation needs",
    ))
}

/// There is no key until mirrors were asked, or until what they said is used: at a time of this
/// client's own.
fn waiting(until_ms: u64, now_ms: u64) -> Attempt {
    Attempt::Again(NoAnswer {
        reason: "the gateway has other keys, which are compared with others' views of them first"
            .to_owned(),
        retry_after_s: Some(until_ms.saturating_sub(now_ms).div_ceil(1000)),
    })
}

/// What is shown in the open at `url`, if it is of this type.
/// # Errors
/// Why there is none, in words.
async fn document(http: &web::Client, url: &str, media_type: &str) -> Result<Vec<u8>, String> {
    let answer = http.get(url).send().await;
    let answer = answer.map_err(|error| unreached("who shows keys and directory", url, &error))?;
    let status = answer.status();
    let is_ours = answer
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(media_type.as_bytes()));
    let unusable = || {
        let url = trust::without_secrets(url);
        format!("{url} shows nothing that can be used (status {status})")
    };
    if status.as_u16() != 200 || !is_ours {
        return Err(unusable());
    }
    limited_body(answer, MAX_PROBLEM).await.ok_or_else(unusable)
}

async fn directory_at(http: &web::Client, keys_url: &str) -> Result<Directory, Error> {
    let document = document(http, &directory::beside_keys(keys_url), JSON).await;
    directory::parse(&document.map_err(NoAnswer::from)?)
}
