//! Azure's clouds: what follows from each, and how to find the cloud of an address.

use super::problem::quoted;
use super::reader::Reader;
use crate::base::json::Node;

/// One of Azure's clouds. They share neither tenants nor tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cloud {
    /// Azure's public cloud.
    #[default]
    Public,
    /// Azure Government, of the United States.
    UsGovernment,
    /// Azure in China, operated by 21Vianet.
    China,
}

impl Cloud {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Public, Self::UsGovernment, Self::China];

    /// Its word in a document, its name in a sentence, what its domains end with, and where Entra ID
    /// issues tokens.
    ///
    /// Source: Microsoft Learn, "National clouds", "Compare Azure Government and global Azure", and
    /// "Azure China developer guide".
    const fn row(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Public => {
                ("public", "Azure's public cloud", ".azure.com", "login.microsoftonline.com")
            }
            Self::UsGovernment => {
                ("us_government", "Azure Government", ".azure.us", "login.microsoftonline.us")
            }
            Self::China => {
                ("china", "Azure in China", ".azure.cn", "login.partner.microsoftonline.cn")
            }
        }
    }

    /// The word for it in a document.
    pub const fn word(self) -> &'static str {
        self.row().0
    }

    /// Its name in a sentence.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// The host where its Entra ID issues tokens.
    pub const fn authority(self) -> &'static str {
        self.row().3
    }

    /// The audience of tokens for its Azure OpenAI resources.
    pub fn audience(self) -> String {
        format!("https://cognitiveservices{}", self.row().2)
    }

    /// The cloud of an Azure OpenAI resource or an audience, by its host; `None` for a name that shows
    /// nothing.
    pub(super) fn of_host(host: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cloud| host.ends_with(cloud.row().2))
    }

    /// The cloud of an authority, by its host.
    pub(super) fn of_authority(host: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cloud| host == cloud.authority())
    }
}

/// Reads `cloud`.
pub(super) fn cloud(reader: &mut Reader, node: &Node) -> Option<Cloud> {
    let word = reader.string(node)?;
    let cloud = Cloud::ALL.into_iter().find(|cloud| cloud.word() == word);
    if cloud.is_none() {
        let right = reader.nearest(word, Cloud::ALL.iter().map(|cloud| cloud.word()));
        reader.problem(format!("found {}; {right}", quoted(word)));
    }
    cloud
}
